package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Group is one control group, in every hierarchy in use. It holds names only
// and can be stored; Plan makes one without touching anything, so that a
// caller can note down what it is about to create.
type Group struct {
	Version     int         `json:"version"` // 1 or 2
	Hierarchies []Hierarchy `json:"hierarchies"`
	Dirs        []string    `json:"dirs"` // the group's directory in each hierarchy
}

// pollEvery is how often a state of the kernel that has no event is read again.
const pollEvery = 20 * time.Millisecond

// Plan names the group called name for the calling process.
func Plan(name string) (Group, error) {
	self, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return Group{}, fmt.Errorf("find own cgroup: %w", err)
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return Group{}, fmt.Errorf("find cgroup mounts: %w", err)
	}
	hs, version, err := Parse(string(self), string(info))
	if err != nil {
		return Group{}, err
	}
	g := Group{Version: version, Hierarchies: hs}
	for _, h := range hs {
		below := h.Path
		if version == 2 {
			// The caller's group holds the caller, so it can delegate nothing;
			// the mount's root is the only group for which that is allowed.
			below = "/"
		}
		g.Dirs = append(g.Dirs, filepath.Join(h.Mount, below, name))
	}
	return g, nil
}

// Create makes the group. Creating one that exists does nothing.
func (g Group) Create() error {
	for i, dir := range g.Dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("create cgroup: %w", err)
		}
		if slices.Contains(strings.Split(g.Hierarchies[i].Controllers, ","), "cpuset") {
			// A new v1 cpuset is empty and takes no process.
			for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
				if err := copyFile(filepath.Join(filepath.Dir(dir), f), filepath.Join(dir, f)); err != nil {
					return fmt.Errorf("create cgroup: %w", err)
				}
			}
		}
	}
	if g.Version == 2 {
		if err := enableControllers(filepath.Dir(g.Dirs[0])); err != nil {
			return err
		}
		return os.MkdirAll(g.leaf(), 0o755)
	}
	return nil
}

// Delegate lets a v2 group's children use the controllers; it moves the
// group's own processes to its leaf first, as the kernel demands. To be
// called when the process whose cgroup namespace is rooted in the group runs.
// On v1 there is nothing to do.
func (g Group) Delegate() error {
	if g.Version != 2 {
		return nil
	}
	pids, err := readPids(filepath.Join(g.Dirs[0], "cgroup.procs"))
	if err != nil {
		return fmt.Errorf("delegate cgroup: %w", err)
	}
	for _, pid := range pids {
		err := os.WriteFile(filepath.Join(g.leaf(), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("move process %d to %s: %w", pid, g.leaf(), err)
		}
	}
	return enableControllers(g.Dirs[0])
}

// leaf is where a v2 group's own processes live.
func (g Group) leaf() string { return filepath.Join(g.Dirs[0], "init") }

// enableControllers hands every controller of a v2 group on to its children.
func enableControllers(dir string) error {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("enable cgroup controllers: %w", err)
	}
	for c := range strings.FieldsSeq(string(have)) {
		err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
		if err != nil && slices.Contains(wanted, c) {
			return fmt.Errorf("enable cgroup controller %s for the children of %s: %w (a group with processes of its own cannot; run on the machine itself or in a container with its own cgroup root)", c, dir, err)
		}
	}
	return nil
}

// Freeze stops every process of the group and returns when they stand still.
func (g Group) Freeze(ctx context.Context) error { return g.setFrozen(ctx, true) }

// Thaw lets the processes of a frozen group run on.
func (g Group) Thaw(ctx context.Context) error { return g.setFrozen(ctx, false) }

func (g Group) setFrozen(ctx context.Context, frozen bool) error {
	file, value, stateFile, want := g.freezer(frozen)
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("freeze cgroup: %w", err)
	}
	err := poll(ctx, func() (bool, error) {
		b, err := os.ReadFile(stateFile)
		if err != nil {
			return false, err
		}
		// A v1 group with processes that cannot stop yet stays FREEZING and
		// tries again only when it is told again.
		if !strings.Contains(string(b), want) {
			return false, os.WriteFile(file, []byte(value), 0)
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("wait for %s to say %q: %w", stateFile, want, err)
	}
	return nil
}

// freezer says which file to write what, and which file must then say what.
func (g Group) freezer(frozen bool) (file, value, stateFile, want string) {
	if g.Version == 2 {
		dir := g.Dirs[0]
		if frozen {
			return filepath.Join(dir, "cgroup.freeze"), "1", filepath.Join(dir, "cgroup.events"), "frozen 1"
		}
		return filepath.Join(dir, "cgroup.freeze"), "0", filepath.Join(dir, "cgroup.events"), "frozen 0"
	}
	for i, h := range g.Hierarchies {
		if h.Controllers == "freezer" {
			file = filepath.Join(g.Dirs[i], "freezer.state")
		}
	}
	if frozen {
		return file, "FROZEN", file, "FROZEN"
	}
	return file, "THAWED", file, "THAWED"
}

// Frozen reports whether the group exists and is frozen or about to be.
func (g Group) Frozen() bool {
	file, _, _, _ := g.freezer(true)
	b, err := os.ReadFile(file)
	if err != nil {
		return false
	}
	s := strings.TrimSpace(string(b))
	return s == "FROZEN" || s == "FREEZING" || s == "1"
}

// Own returns the processes that the cluster itself started in the group,
// without those of deeper groups (pods).
func (g Group) Own() ([]int, error) {
	dirs := g.Dirs[:min(1, len(g.Dirs))]
	if g.Version == 2 {
		dirs = []string{g.Dirs[0], g.leaf()}
	}
	var pids []int
	for _, dir := range dirs {
		ps, err := readPids(filepath.Join(dir, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		pids = append(pids, ps...)
	}
	return pids, nil
}

// Pids returns every process of the group and of the groups below it, in any
// hierarchy. A group that does not exist has none.
func (g Group) Pids() ([]int, error) {
	seen := map[int]bool{}
	for _, dir := range g.Dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // removed while walking
			}
			if err != nil || d.Name() != "cgroup.procs" {
				return err
			}
			pids, err := readPids(path)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, enodev) {
				return nil
			}
			for _, p := range pids {
				seen[p] = true
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list processes of cgroup: %w", err)
		}
	}
	pids := make([]int, 0, len(seen))
	for p := range seen {
		pids = append(pids, p)
	}
	slices.Sort(pids)
	return pids, nil
}

// Remove waits until no process is left in the group, then removes it and
// everything below it. It ends no process. Removing a group that does not
// exist does nothing.
func (g Group) Remove(ctx context.Context) error {
	err := poll(ctx, func() (bool, error) {
		pids, err := g.Pids()
		return len(pids) == 0, err
	})
	if err != nil {
		pids, _ := g.Pids()
		return fmt.Errorf("wait for processes %v to end: %w", pids, err)
	}
	for _, dir := range g.Dirs {
		var last error
		err := poll(ctx, func() (bool, error) {
			last = removeTree(dir)
			return last == nil, nil
		})
		if err != nil {
			return fmt.Errorf("remove cgroup %s: %w", dir, errors.Join(last, err))
		}
	}
	return nil
}

// removeTree removes a directory tree that consists of cgroups: only
// directories can be removed, the files in them go along.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func readPids(file string) ([]int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var pids []int
	for f := range strings.FieldsSeq(string(b)) {
		p, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("parse %s: %w", file, err)
		}
		pids = append(pids, p)
	}
	return pids, nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0)
}

// poll calls done until it reports true or an error, or ctx ends.
func poll(ctx context.Context, done func() (bool, error)) error {
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}
