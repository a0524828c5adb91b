package cgroup

import (
	"slices"
	"strings"
	"testing"
)

const v1Mounts = `20 1 0:1 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
21 20 0:2 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu
22 20 0:3 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct
23 20 0:4 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
24 20 0:5 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
25 20 0:6 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
26 20 0:7 / /sys/fs/cgroup/freezer rw - cgroup cgroup rw,freezer
27 20 0:8 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
28 20 0:9 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
29 20 0:10 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
`

const v1Self = `9:name=systemd:/
8:pids:/
7:perf_event:/
6:freezer:/
5:devices:/
4:memory:/caller/deep
3:cpuset:/
2:cpuacct:/
1:cpu:/
0::/
`

func TestParse(t *testing.T) {
	comounted := strings.NewReplacer(
		"21 20 0:2 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n", "21 20 0:2 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n",
		"22 20 0:3 / /sys/fs/cgroup/cpuacct rw - cgroup cgroup rw,cpuacct\n", "").Replace(v1Mounts)
	comountedSelf := strings.NewReplacer("2:cpuacct:/\n", "", "1:cpu:/", "1:cpu,cpuacct:/").Replace(v1Self)
	for name, tc := range map[string]struct {
		self, mounts string
		version      int
		wantErr      string
		has          Hierarchy
		count        int
	}{
		"v1 with an empty v2 beside it counts as v1, and unmounted controllers are left out": {
			self: v1Self, mounts: v1Mounts, version: 1, count: 8,
			has: Hierarchy{Controllers: "memory", Mount: "/sys/fs/cgroup/memory", Path: "/caller/deep"}},
		"controllers mounted together are one hierarchy": {
			self: comountedSelf, mounts: comounted, version: 1, count: 7,
			has: Hierarchy{Controllers: "cpu,cpuacct", Mount: "/sys/fs/cgroup/cpu,cpuacct", Path: "/"}},
		"a named hierarchy is found by its name": {
			self: v1Self, mounts: v1Mounts, version: 1, count: 8,
			has: Hierarchy{Controllers: "name=systemd", Mount: "/sys/fs/cgroup/systemd", Path: "/"}},
		"v2 alone is one hierarchy": {
			self: "0::/user.slice\n", mounts: "30 1 0:20 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n", version: 2, count: 1,
			has: Hierarchy{Mount: "/sys/fs/cgroup", Path: "/user.slice"}},
		"v2 with only systemd's named v1 hierarchy counts as v2": {
			self: "1:name=systemd:/\n0::/\n", version: 2, count: 1,
			mounts: "28 20 0:9 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n29 20 0:10 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			has:    Hierarchy{Mount: "/sys/fs/cgroup/unified", Path: "/"}},
		"a mount that shows a subtree shifts the path": {
			self: "0::/docker/abc/x\n", mounts: "30 1 0:20 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", version: 2, count: 1,
			has: Hierarchy{Mount: "/sys/fs/cgroup", Path: "/x"}},
		"controllers split between v1 and v2 are refused by name": {
			self: strings.Replace(v1Self, "6:freezer:/\n", "", 1), mounts: v1Mounts, wantErr: "lacks the controllers freezer"},
		"nothing mounted is an error":             {self: "0::/\n", mounts: "", wantErr: "no cgroup hierarchy is mounted"},
		"a line of another format is an error":    {self: "nonsense\n", mounts: v1Mounts, wantErr: "is not id:controllers:/path"},
		"a path that is not absolute is an error": {self: "0::x\n", mounts: v1Mounts, wantErr: "is not id:controllers:/path"},
	} {
		t.Run(name, func(t *testing.T) {
			hs, version, err := Parse(tc.self, tc.mounts)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) {
					t.Fatalf("error %v, want %q", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if version != tc.version || len(hs) != tc.count || !slices.Contains(hs, tc.has) {
				t.Errorf("version %d, %d hierarchies %v; want version %d, %d with %v", version, len(hs), hs, tc.version, tc.count, tc.has)
			}
		})
	}
}

func TestFreezerFilesFollowTheVersion(t *testing.T) {
	v1 := Group{Version: 1, Hierarchies: []Hierarchy{{Controllers: "cpu"}, {Controllers: "freezer"}}, Dirs: []string{"/c/x", "/f/x"}}
	if file, value, state, want := v1.freezer(true); file != "/f/x/freezer.state" || value != "FROZEN" || state != file || want != "FROZEN" {
		t.Errorf("v1: write %q to %s, wait for %q in %s", value, file, want, state)
	}
	v2 := Group{Version: 2, Hierarchies: []Hierarchy{{}}, Dirs: []string{"/u/x"}}
	if file, value, state, want := v2.freezer(false); file != "/u/x/cgroup.freeze" || value != "0" || state != "/u/x/cgroup.events" || want != "frozen 0" {
		t.Errorf("v2: write %q to %s, wait for %q in %s", value, file, want, state)
	}
}

func TestAGroupThatDoesNotExistHasNoProcesses(t *testing.T) {
	g := Group{Version: 1, Hierarchies: []Hierarchy{{Controllers: "freezer"}}, Dirs: []string{t.TempDir() + "/none"}}
	pids, err := g.Pids()
	if err != nil || len(pids) != 0 {
		t.Errorf("Pids: %v, %v", pids, err)
	}
	if g.Frozen() {
		t.Error("Frozen: true")
	}
	if err := g.Remove(t.Context()); err != nil {
		t.Errorf("Remove: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(v1Self, v1Mounts)
	f.Add("0::/\n", "30 1 0:20 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
	f.Fuzz(func(t *testing.T, self, mounts string) {
		hs, version, err := Parse(self, mounts)
		if err != nil {
			return
		}
		if version != 1 && version != 2 || len(hs) == 0 {
			t.Errorf("version %d with %d hierarchies and no error", version, len(hs))
		}
		for _, h := range hs {
			if !strings.HasPrefix(h.Path, "/") || strings.Contains(h.Path, "/../") {
				t.Errorf("path %q leaves its hierarchy", h.Path)
			}
		}
	})
}
