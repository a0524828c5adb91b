package cluster

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpenRefusesDirectoriesThatCannotWork(t *testing.T) {
	for name, tc := range map[string]struct{ dir, want string }{
		"a relative one":        {"kube", "absolute"},
		"the root":              {"/", "absolute"},
		"one too long":          {"/tmp/" + strings.Repeat("x", 40), "at most 40"},
		"one mount cannot name": {"/tmp/a b", "use letters"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Open(Options{Dir: tc.dir}); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
}

func TestWhatIsNotThereSaysHowToGetIt(t *testing.T) {
	c, err := Open(Options{Dir: t.TempDir()[:4] + "/iomesh-none"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.PowerOff(t.Context(), "n1"); err == nil || !strings.Contains(err.Error(), "start one with up") {
		t.Errorf("PowerOff: %v", err)
	}
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "start one with up") {
		t.Errorf("Status: %v", err)
	}
	if err := c.Down(t.Context(), false); err != nil {
		t.Errorf("Down of nothing: %v", err)
	}
}

func TestDownDoesNotPurgeADirectoryOfSomebodyElse(t *testing.T) {
	dir := t.TempDir()
	if len(dir) > dirMax {
		t.Skip("the temporary directory has a long name")
	}
	c, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Down(t.Context(), true); err == nil || !strings.Contains(err.Error(), "not removed") {
		t.Errorf("error %v", err)
	}
}

func TestProcessOneIsToldFromThoseOfPods(t *testing.T) {
	for status, want := range map[string]bool{
		"Name:\tpause\nNSpid:\t4711\t1\n":    true,
		"Name:\tpause\nNSpid:\t4711\t7\t1\n": false, // a pod's
		"Name:\tkubelet\nNSpid:\t4711\t60\n": false,
		"Name:\tunshare\nNSpid:\t4711\n":     false,
		"Name:\tNSpid:\nUid:\t1\n":           false,
		"":                                   false,
	} {
		if got := isInit(status); got != want {
			t.Errorf("%q: %v", status, got)
		}
	}
}

func TestParseMountinfo(t *testing.T) {
	text := "36 35 98:0 / /mnt1 rw,noatime master:1 - ext3 /dev/root rw\n" +
		"bad line\n" +
		"40 35 0:77 / /var/lib/iomesh/attach/vol rw shared:3 - fuse.iomesh x rw\n"
	got := parseMountinfo(text)
	want := []mountInfo{
		{dev: unix.Mkdev(98, 0), point: "/mnt1", fsType: "ext3"},
		{dev: unix.Mkdev(0, 77), point: "/var/lib/iomesh/attach/vol", fsType: "fuse.iomesh"},
	}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestNodeConfigurationNamesTheNode(t *testing.T) {
	// The templates are compiled in; a misspelled key would show only when a
	// node boots.
	c, err := Open(Options{Dir: "/tmp/iomesh-t"})
	if err != nil {
		t.Fatal(err)
	}
	c.dir = t.TempDir()
	n := &node{c: c, Name: "n7", Index: 7}
	if err := n.writeConfig(); err != nil {
		t.Fatal(err)
	}
	if n.ip() != "10.89.0.17" || n.podCIDR() != "10.244.7.0/24" {
		t.Errorf("addresses %s, %s", n.ip(), n.podCIDR())
	}
}

func TestMakeDisksChecksSizes(t *testing.T) {
	c, err := Open(Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{0, -4096, 1<<20 + 1} {
		if _, err := c.MakeDisks(t.Context(), "n1", 1, size); err == nil || !strings.Contains(err.Error(), "4 KiB blocks") {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add("36 35 98:0 / /mnt1 rw,noatime master:1 - ext3 /dev/root rw\n")
	f.Add("36 35 98: / /mnt1 rw - \n")
	f.Fuzz(func(t *testing.T, text string) {
		if got := parseMountinfo(text); len(got) > strings.Count(text, "\n")+1 {
			t.Errorf("%d mounts in %d lines", len(got), strings.Count(text, "\n")+1)
		}
	})
}
