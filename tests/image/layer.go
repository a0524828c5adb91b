package image

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
	"time"
)

// entry is one file of a layer. Content is in data, or in the file source.
type entry struct {
	kind   byte // tar.TypeReg, TypeDir or TypeSymlink
	mode   int64
	target string // of a symbolic link
	data   []byte
	source string
}

// Layer is a root file system in the making. Paths are relative to the root
// and in the merged form: what is put into bin, sbin or lib goes to usr/bin,
// usr/sbin or usr/lib, and the short names are links.
type Layer struct {
	entries map[string]entry
}

// epoch is the date of everything in an image.
var epoch = time.Unix(0, 0).UTC()

// merged are the top directories that Debian has merged into usr.
var merged = []string{"bin", "sbin", "lib", "lib32", "lib64", "libx32"}

// NewLayer returns the skeleton that every image with Debian programs has.
func NewLayer() *Layer {
	l := &Layer{entries: map[string]entry{}}
	for _, d := range []string{"dev", "etc", "mnt", "proc", "root", "run", "sys", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/local/bin", "var"} {
		l.Dir(d, 0o755)
	}
	l.Dir("tmp", 0o1777)
	l.Dir("var/tmp", 0o1777)
	for _, m := range []string{"bin", "sbin", "lib", "lib64"} {
		l.entries[m] = entry{kind: tar.TypeSymlink, mode: 0o777, target: "usr/" + m}
	}
	l.Data("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	l.Data("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	l.Data("etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nhosts: files dns\n"))
	return l
}

// clean brings a path into the form in which entries are kept.
func clean(p string) string {
	p = strings.TrimPrefix(path.Clean("/"+p), "/")
	first, _, _ := strings.Cut(p, "/")
	if slices.Contains(merged, first) {
		return "usr/" + p
	}
	return p
}

// put adds an entry and the directories above it.
func (l *Layer) put(p string, e entry) {
	p = clean(p)
	if p == "" {
		return
	}
	l.entries[p] = e
	for d := path.Dir(p); d != "."; d = path.Dir(d) {
		if _, ok := l.entries[d]; !ok {
			l.entries[d] = entry{kind: tar.TypeDir, mode: 0o755}
		}
	}
}

// Dir adds a directory.
func (l *Layer) Dir(p string, mode int64) { l.put(p, entry{kind: tar.TypeDir, mode: mode}) }

// Data adds a file with the given content, which the layer keeps.
func (l *Layer) Data(p string, mode int64, data []byte) {
	l.put(p, entry{kind: tar.TypeReg, mode: mode, data: data})
}

// File adds the file source under the path p. It is read when the image is
// written.
func (l *Layer) File(p string, mode int64, source string) error {
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("add %s to image: %w", p, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("add %s to image: %s is not a file", p, source)
	}
	l.put(p, entry{kind: tar.TypeReg, mode: mode, source: source})
	return nil
}

// Symlink adds a symbolic link.
func (l *Layer) Symlink(p, target string) {
	l.put(p, entry{kind: tar.TypeSymlink, mode: 0o777, target: target})
}

// Has reports whether the layer has the path, following no link.
func (l *Layer) Has(p string) bool { _, ok := l.entries[clean(p)]; return ok }

// tarball adds the content of a tar stream. Owners, dates and device files
// are dropped; hard links become files of their own.
func (l *Layer) tarball(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		switch h.Typeflag {
		case tar.TypeDir:
			// A package's directory must not replace a link of the skeleton.
			if !l.Has(h.Name) {
				l.put(h.Name, entry{kind: tar.TypeDir, mode: h.Mode & 0o1777})
			}
		case tar.TypeReg:
			data, err := io.ReadAll(tr)
			if err != nil {
				return err
			}
			l.put(h.Name, entry{kind: tar.TypeReg, mode: h.Mode & 0o6777, data: data})
		case tar.TypeSymlink:
			l.put(h.Name, entry{kind: tar.TypeSymlink, mode: 0o777, target: h.Linkname})
		case tar.TypeLink:
			e, ok := l.entries[clean(h.Linkname)]
			if !ok {
				return fmt.Errorf("hard link %s before its file %s", h.Name, h.Linkname)
			}
			l.put(h.Name, e)
		}
	}
}

// WriteTo writes the layer as a tar stream.
func (l *Layer) WriteTo(w io.Writer) (int64, error) {
	count := &countingWriter{w: w}
	tw := tar.NewWriter(count)
	for _, p := range l.paths() {
		if err := l.entries[p].write(tw, p); err != nil {
			return count.n, fmt.Errorf("write %s: %w", p, err)
		}
	}
	return count.n, tw.Close()
}

func (l *Layer) paths() []string {
	paths := make([]string, 0, len(l.entries))
	for p := range l.entries {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

func (e entry) write(tw *tar.Writer, p string) error {
	h := &tar.Header{Typeflag: e.kind, Name: p, Mode: e.mode, Linkname: e.target, ModTime: epoch, Format: tar.FormatPAX}
	var content io.Reader
	switch {
	case e.kind == tar.TypeDir:
		h.Name += "/"
	case e.source != "":
		f, err := os.Open(e.source)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		h.Size, content = info.Size(), f
	case e.kind == tar.TypeReg:
		h.Size, content = int64(len(e.data)), bytes.NewReader(e.data)
	}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	if content == nil {
		return nil
	}
	_, err := io.Copy(tw, content)
	return err
}

type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}
