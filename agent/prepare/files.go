package prepare

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// fileMax bounds a configuration file that is read.
const fileMax = 1 << 20

// rel is a path of the machine below its opened root.
func rel(p string) string { return strings.TrimPrefix(p, "/") }

// readMax reads a file of at most limit bytes.
func readMax(root *os.Root, name string, limit int64) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("/%s is no regular file", name)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		return nil, fmt.Errorf("/%s is larger than %d bytes", name, limit)
	}
	return b, err
}

// present returns a file of the machine, nil if there is none. Anything but a regular file is an error: it would be replaced.
func (r *run) present(p string) (*content, error) {
	st, err := r.root.Lstat(rel(p))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", p, err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is a %s, not a file; move it away", p, kind(st.Mode()))
	}
	b, err := readMax(r.root, rel(p), fileMax)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", p, err)
	}
	c := &content{Bytes: b, Mode: st.Mode().Perm(), UID: -1, GID: -1}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		c.UID, c.GID = int(sys.Uid), int(sys.Gid)
	}
	return c, nil
}

func kind(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "directory"
	case m&fs.ModeSymlink != 0:
		return "symbolic link"
	}
	return "special file"
}

// configs returns the texts of the *.conf files of a directory of the machine, by name. Files that cannot be read are left out: whoever
// reads the directory on the machine may see more, never less.
func (r *run) configs(dir string) map[string]string {
	d, err := r.root.Open(rel(dir))
	if err != nil {
		return nil
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil
	}
	out := map[string]string{}
	for _, n := range names {
		if !strings.HasSuffix(n, ".conf") {
			continue
		}
		if b, err := readMax(r.root, rel(path.Join(dir, n)), fileMax); err == nil {
			out[n] = string(b)
		}
	}
	return out
}

// temporary is the name under which a file is made. No reader of configuration directories takes it for one of its own.
func temporary(name string) string { return path.Join(path.Dir(name), "."+path.Base(name)+".new") }

// replace makes a file have a content, stable on disk, or leaves it as it was.
func (r *run) replace(root *os.Root, name string, c *content) error {
	tmp := temporary(name)
	r.before("write " + tmp)
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, c.Mode)
	if err != nil {
		return fmt.Errorf("write /%s: %w", name, err)
	}
	_, err = f.Write(c.Bytes)
	err = errors.Join(err, f.Chmod(c.Mode)) // whatever the umask
	if c.UID >= 0 && c.GID >= 0 {
		err = errors.Join(err, f.Chown(c.UID, c.GID))
	}
	if err = errors.Join(err, r.flush(f), f.Close()); err != nil {
		return fmt.Errorf("write /%s: %w", name, err)
	}
	r.before("rename " + tmp)
	if err := root.Rename(tmp, name); err != nil {
		return fmt.Errorf("write /%s: %w", name, err)
	}
	return r.syncDir(root, path.Dir(name))
}

// remove removes a file or an empty directory, if it is there.
func (r *run) remove(root *os.Root, name string) error {
	if _, err := root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r.before("remove " + name)
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove /%s: %w", name, err)
	}
	return r.syncDir(root, path.Dir(name))
}

func (r *run) syncDir(root *os.Root, name string) error {
	d, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("flush directory /%s: %w", name, err)
	}
	defer d.Close()
	if err := r.flush(d); err != nil {
		return fmt.Errorf("flush directory /%s: %w", name, err)
	}
	return nil
}

// noteFile brings the note of a file up to date before want is written there. What is kept is the state before our first change, or what
// somebody else has made of the file since then.
func (r *run) noteFile(old *fileNote, p string, want func(base []byte) []byte) (*fileNote, error) {
	now, err := r.present(p)
	if err != nil {
		return nil, err
	}
	n := &fileNote{}
	if old != nil {
		n.Before, n.Wrote, n.Made = old.Before, slices.Clone(old.Wrote), slices.Clone(old.Made)
	}
	if old == nil || !n.before(now) && !n.ours(now) {
		n.Before = now
	}
	if next := want(n.base(now)); !n.ours(&content{Bytes: next}) {
		n.Wrote = append(n.Wrote, next)
	}
	for dir := path.Dir(rel(p)); dir != "."; dir = path.Dir(dir) {
		if !r.exists(dir) && !slices.Contains(n.Made, dir) {
			n.Made = append(n.Made, dir)
		}
	}
	slices.Sort(n.Made) // outermost first
	return n, nil
}

// base is what the wanted content is made of: what is there, unless we wrote it.
func (n *fileNote) base(now *content) []byte {
	if n != nil && n.ours(now) {
		now = n.Before
	}
	if now == nil {
		return nil
	}
	return now.Bytes
}

// ours says whether we wrote this content.
func (n *fileNote) ours(c *content) bool {
	return c != nil && slices.ContainsFunc(n.Wrote, func(w []byte) bool { return bytes.Equal(w, c.Bytes) })
}

// before says whether this is what was there before.
func (n *fileNote) before(c *content) bool {
	if c == nil || n.Before == nil {
		return c == nil && n.Before == nil
	}
	return bytes.Equal(c.Bytes, n.Before.Bytes)
}

// write puts the wanted content there.
func (r *run) write(n *fileNote, p string, want func(base []byte) []byte) error {
	now, err := r.present(p)
	if err != nil {
		return err
	}
	for _, dir := range n.Made {
		if r.exists(dir) {
			continue
		}
		r.before("make " + dir)
		if err := r.root.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make directory /%s: %w", dir, err)
		}
		if err := r.syncDir(r.root, path.Dir(dir)); err != nil {
			return err
		}
	}
	c := content{Bytes: want(n.base(now)), Mode: 0o644, UID: -1, GID: -1}
	if now != nil {
		c.Mode, c.UID, c.GID = now.Mode, now.UID, now.GID
	}
	if !n.ours(&c) {
		return fmt.Errorf("%s was changed meanwhile; make a new plan", p)
	}
	return r.replace(r.root, rel(p), &c)
}

// lookFileBack adds to a step what restoring the file would change, or why it is left alone.
func (r *run) lookFileBack(n *fileNote, p string, st *Step) {
	now, err := r.present(p)
	switch {
	case err != nil:
		st.Left = append(st.Left, err.Error())
	case n.before(now):
	case n.ours(now) && n.Before == nil:
		st.State, st.File = Needed, &File{Path: p, Remove: true}
	case n.ours(now):
		st.State, st.File = Needed, &File{Path: p, Content: n.Before.Bytes}
	case now == nil:
		st.Left = append(st.Left, p+" was removed since")
	default:
		st.Left = append(st.Left, p+" was changed since")
	}
	if st.File == nil && (r.exists(temporary(rel(p))) || slices.ContainsFunc(n.Made, r.empty)) {
		st.State, st.Evidence = Needed, litterEvidence+p
	}
}

// litterEvidence is of a step that only cleans up.
const litterEvidence = "an interrupted run left something beside "

// lookForLitter adds to a step the temporary file that a killed run left. Without an entry it is not ours.
func (r *run) lookForLitter(e *entry, p string, st *Step) {
	if e != nil && st.State == Done && r.exists(temporary(rel(p))) {
		st.State, st.Evidence = Needed, litterEvidence+p
	}
}

// sweep removes that file.
func (r *run) sweep(p string) error {
	if tmp := temporary(rel(p)); r.exists(tmp) {
		return r.remove(r.root, tmp)
	}
	return nil
}

func (r *run) exists(name string) bool {
	_, err := r.root.Lstat(name)
	return err == nil
}

func (r *run) empty(dir string) bool {
	d, err := r.root.Open(dir)
	if err != nil {
		return false
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// restore puts the file back as it was, unless somebody else changed it, and takes directories away that were made for it and that nobody
// else uses.
func (r *run) restore(n *fileNote, p string) error {
	if now, err := r.present(p); err == nil && n.ours(now) && !n.before(now) {
		if n.Before != nil {
			err = r.replace(r.root, rel(p), n.Before)
		} else {
			err = r.remove(r.root, rel(p))
		}
		if err != nil {
			return err
		}
	}
	if err := r.sweep(p); err != nil {
		return err
	}
	for _, dir := range slices.Backward(n.Made) {
		if r.empty(dir) {
			if err := r.remove(r.root, dir); err != nil {
				return err
			}
		}
	}
	return nil
}
