//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/procstat"
)

// podsMax is what three nodes may need; the original needs 40.
const podsMax = 20

// TestFootprint makes 20 volumes, each mounted by a pod, lets them rest, and prints what IOMesh takes of the machine meanwhile.
func TestFootprint(t *testing.T) {
	const n, watch = 20, time.Minute
	ctx, l := ready(t, 25*time.Minute)
	must(t, l.Apply(ctx, still("still", n, "64Mi", "")))
	must(t, l.Until(ctx, 10*time.Minute, "all pods run", func(ctx context.Context) string {
		ready := get(ctx, l, "statefulset", "still", "-o", "jsonpath={.status.readyReplicas}")
		return unless(ready == fmt.Sprint(n), ready+" run")
	}))
	pods := strings.Fields(get(ctx, l, "pods", "-n", "iomesh-system", "-o", "name"))
	containers := strings.Fields(get(ctx, l, "pods", "-n", "iomesh-system", "-o", "jsonpath={.items[*].spec.containers[*].name}"))
	if len(pods) == 0 || len(pods) > podsMax {
		t.Errorf("%d pods on three nodes, want at most %d", len(pods), podsMax)
	}
	// What starting the pods has set off comes to rest.
	must(t, pauseFor(ctx, 30*time.Second))
	before, err := daemons()
	must(t, err)
	begin := time.Now()
	must(t, pauseFor(ctx, watch))
	after, err := daemons()
	must(t, err)
	elapsed := time.Since(begin).Seconds()
	var b strings.Builder
	fmt.Fprintf(&b, "%d pods, %d containers on three nodes; %d volumes of 64 MiB, each mounted by a pod; %.0f s\n\n", len(pods), len(containers), n, elapsed)
	fmt.Fprintf(&b, "| daemon | processes | CPU, all together | resident, all together |\n|---|---|---|---|\n")
	var cpu, mib float64
	for _, name := range slices.Sorted(maps.Keys(after)) {
		a, was := after[name], before[name]
		share := 100 * (a.cpu - was.cpu).Seconds() / elapsed
		cpu, mib = cpu+share, mib+float64(a.rss)/(1<<20)
		fmt.Fprintf(&b, "| %s | %d | %.2f %% of a core | %.0f MiB |\n", name, a.n, share, float64(a.rss)/(1<<20))
	}
	fmt.Fprintf(&b, "| together | | %.2f %% of a core | %.0f MiB |\n\n", cpu, mib)
	archives, err := filepath.Glob(filepath.Join(l.Root, "build", "images", "*.tar"))
	must(t, err)
	for _, a := range archives {
		st, err := os.Stat(a)
		must(t, err)
		fmt.Fprintf(&b, "image %s: %.1f MiB\n", filepath.Base(a), float64(st.Size())/(1<<20))
	}
	l.Say("%s", b.String())
	for _, d := range []string{"storaged chunk", "storaged meta", "iomesh-agent", "iomesh-csi", "iomesh-operator"} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(after)), func(s string) bool { return strings.HasPrefix(s, d) }) {
			t.Errorf("no process of %s was found", d)
		}
	}
	_, err = l.Kubectl(ctx, "delete", "statefulset", "still", "--wait=false")
	must(t, err)
	must(t, l.Until(ctx, 10*time.Minute, "pods and volumes have gone", func(ctx context.Context) string {
		left := append(objects(ctx, l, "pvc,pv"), strings.Fields(get(ctx, l, "pods", "-o", "name"))...)
		return unless(len(left) == 0, fmt.Sprintf("%d objects are left", len(left)))
	}))
	nothingLeft(ctx, t, l)
}

// load is what all processes of one daemon take.
type load struct {
	n   int
	cpu time.Duration
	rss int64
}

// daemons adds up what the processes of IOMesh and its sidecars on this machine have used, by name and first argument (proc(5)).
func daemons() (map[string]load, error) {
	out := map[string]load{}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		dir := filepath.Join("/proc", e.Name())
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // ended
		}
		args := strings.Split(string(cmdline), "\x00")
		name := filepath.Base(args[0])
		switch {
		case name == "storaged" && len(args) > 1:
			name += " " + args[1]
		case strings.HasPrefix(name, "iomesh-"):
			if len(args) > 1 && args[1] != "" && !strings.HasPrefix(args[1], "-") {
				name += " " + args[1]
			}
		case strings.HasPrefix(name, "csi-"), name == "snapshot-controller":
		default:
			continue
		}
		u, err := procstat.Of(pid)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return nil, err
		}
		l := out[name]
		l.n++
		l.cpu += u.CPU
		l.rss += u.RSS
		out[name] = l
	}
	return out, nil
}

// pauseFor lets a while pass.
func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
