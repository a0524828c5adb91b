package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// groups returns a planned group of each version that this machine can make.
func groups(t *testing.T) map[string]Group {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	name := fmt.Sprintf("iomesh-test-%d", os.Getpid())
	found := map[string]Group{}
	g, err := Plan(name)
	if err != nil {
		t.Skip(err)
	}
	found[fmt.Sprintf("v%d", g.Version)] = g
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := parseMounts(string(info))
	if err != nil {
		t.Fatal(err)
	}
	// Beside v1 there may be a v2 hierarchy without controllers: it has the
	// freezer, and processes can be born into it.
	if m, ok := mounts[""]; ok {
		found["v2"] = Group{Version: 2, Hierarchies: []Hierarchy{{Mount: m.point, Path: "/"}}, Dirs: []string{filepath.Join(m.point, name)}}
	}
	return found
}

func TestAGroupHoldsFreezesAndReleasesItsProcesses(t *testing.T) {
	for version, g := range groups(t) {
		t.Run(version, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			before, err := os.ReadFile("/proc/self/cgroup")
			if err != nil {
				t.Fatal(err)
			}
			if err := g.Create(); err != nil {
				t.Skipf("this machine lets nobody make control groups: %v", err)
			}
			t.Cleanup(func() {
				if err := g.Remove(context.Background()); err != nil {
					t.Error(err)
				}
			})
			start := func() *exec.Cmd {
				t.Helper()
				cmd := exec.Command("sleep", "1000")
				if err := g.Start(cmd); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					_ = cmd.Process.Kill()
					_ = cmd.Wait()
				})
				return cmd
			}
			first := start()
			if err := g.Delegate(); err != nil {
				t.Fatal(err)
			}
			second := start()
			own, err := g.Own()
			if err != nil {
				t.Fatal(err)
			}
			for _, cmd := range []*exec.Cmd{first, second} {
				if !slices.Contains(own, cmd.Process.Pid) {
					t.Errorf("process %d is not in the group: %v", cmd.Process.Pid, own)
				}
			}
			// Starting must not take the caller along.
			if after, err := os.ReadFile("/proc/self/cgroup"); err != nil || string(after) != string(before) {
				t.Errorf("the caller moved to %s, %v", after, err)
			}
			if slices.Contains(own, os.Getpid()) {
				t.Error("the caller is in the group")
			}
			if err := g.Freeze(ctx); err != nil {
				t.Fatal(err)
			}
			if !g.Frozen() {
				t.Error("not frozen")
			}
			if err := g.Start(exec.Command("true")); !errors.Is(err, ErrFrozen) {
				t.Errorf("start in a frozen group: %v", err)
			}
			if err := g.Thaw(ctx); err != nil {
				t.Fatal(err)
			}
			if g.Frozen() {
				t.Error("still frozen")
			}
			// A group with processes is not removed.
			short, stop := context.WithCancelCause(ctx)
			stop(errors.New("asked to stop"))
			if err := g.Remove(short); err == nil || !strings.Contains(err.Error(), fmt.Sprint(first.Process.Pid)) {
				t.Errorf("remove with processes: %v", err)
			}
			for _, cmd := range []*exec.Cmd{first, second} {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait() // killed, so an error by design
			}
			if err := g.Remove(ctx); err != nil {
				t.Fatal(err)
			}
			for _, d := range g.Dirs {
				if _, err := os.Stat(d); err == nil {
					t.Errorf("%s is left", d)
				}
			}
		})
	}
}
