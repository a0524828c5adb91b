package cgroup

import (
	"fmt"
	"path/filepath"
	"strings"
)

// Hierarchy is a mounted cgroup hierarchy and the caller's place in it.
type Hierarchy struct {
	Controllers string // as the kernel prints them: "cpu", "cpu,cpuacct", "name=systemd"; "" is v2
	Mount       string // absolute path of the mount point
	Path        string // the caller's group, relative to Mount; starts with "/"
}

// wanted are the v1 controllers without which kubelet refuses to run.
var wanted = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "pids"}

// Parse joins the text of /proc/self/cgroup with that of
// /proc/self/mountinfo. It returns the hierarchies the cluster uses and
// their version: the v1 ones if any v1 controller is in use, else the v2 one.
func Parse(selfCgroup, mountinfo string) ([]Hierarchy, int, error) {
	mounts, err := parseMounts(mountinfo)
	if err != nil {
		return nil, 0, err
	}
	var v1, v2 []Hierarchy
	for line := range strings.Lines(selfCgroup) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 || !strings.HasPrefix(parts[2], "/") {
			return nil, 0, fmt.Errorf("parse /proc/self/cgroup: %q is not id:controllers:/path", line)
		}
		m, ok := mounts[parts[1]]
		if !ok {
			continue // not mounted here, so not in use here
		}
		h := Hierarchy{Controllers: parts[1], Mount: m.point, Path: m.below(parts[2])}
		if parts[1] == "" {
			v2 = append(v2, h)
		} else {
			v1 = append(v1, h)
		}
	}
	if missing := missingV1(v1); len(missing) < len(wanted) {
		if len(missing) > 0 {
			return nil, 0, fmt.Errorf("cgroup v1 lacks the controllers %s (split between v1 and v2?)", strings.Join(missing, ", "))
		}
		return v1, 1, nil
	}
	if len(v2) == 0 {
		return nil, 0, fmt.Errorf("no cgroup hierarchy is mounted; mount cgroup2 at /sys/fs/cgroup")
	}
	return v2, 2, nil
}

func missingV1(hs []Hierarchy) []string {
	have := map[string]bool{}
	for _, h := range hs {
		for c := range strings.SplitSeq(h.Controllers, ",") {
			have[c] = true
		}
	}
	var missing []string
	for _, c := range wanted {
		if !have[c] {
			missing = append(missing, c)
		}
	}
	return missing
}

// mount is one cgroup mount: root is the group that shows at point.
type mount struct{ root, point string }

// below translates a path of the hierarchy into one below the mount point.
func (m mount) below(path string) string {
	if m.root != "/" {
		if rest, ok := strings.CutPrefix(path, m.root); ok {
			path = rest
		}
	}
	return filepath.Clean("/" + path)
}

// parseMounts finds the cgroup mounts of a mountinfo text, by controllers.
// The first mount of a hierarchy wins. Format: proc_pid_mountinfo(5).
func parseMounts(mountinfo string) (map[string]mount, error) {
	found := map[string]mount{}
	for line := range strings.Lines(mountinfo) {
		left, right, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		fields, fs := strings.Fields(left), strings.Fields(right)
		if !ok || len(fields) < 6 || len(fs) < 3 {
			return nil, fmt.Errorf("parse /proc/self/mountinfo: bad line %q", line)
		}
		var key string
		switch fs[0] {
		case "cgroup2":
		case "cgroup":
			key = controllersOf(fs[2])
		default:
			continue
		}
		if _, ok := found[key]; !ok {
			found[key] = mount{root: fields[3], point: fields[4]}
		}
	}
	return found, nil
}

// controllersOf picks the controllers out of a cgroup v1 mount's super
// options ("rw,cpu,cpuacct", "rw,xattr,name=systemd").
func controllersOf(options string) string {
	var cs []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "rw", "ro", "xattr", "noprefix", "clone_children", "all", "none", "cpuset_v2_mode", "favordynmods":
			continue
		}
		if strings.HasPrefix(o, "release_agent=") {
			continue
		}
		cs = append(cs, o)
	}
	return strings.Join(cs, ",")
}
