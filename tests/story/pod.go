package story

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

// witness follows the log of a writer and remembers what it acknowledged. What it has read was durable on every replica before.
type witness struct {
	pod  string
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu       sync.Mutex
	acked    uint64
	verified uint64
	longest  time.Duration // between two lines
	failed   string
}

// watch follows the log of a pod from now until forget, or until the log ends.
func watch(ctx context.Context, l *lab.Lab, pod string) (*witness, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := l.Command(ctx, "kubectl", "logs", "-f", pod)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("follow the log of pod %s: %w", pod, err)
	}
	w := &witness{pod: pod, stop: cancel}
	w.wg.Go(func() {
		w.read(out)
		_ = cmd.Wait()
	})
	return w, nil
}

func (w *witness) read(r io.Reader) {
	sc := bufio.NewScanner(r)
	last := time.Time{}
	for sc.Scan() {
		word, rest, _ := strings.Cut(sc.Text(), " ")
		n, _ := strconv.ParseUint(rest, 10, 64)
		w.mu.Lock()
		switch word {
		case "acked":
			w.acked = n
			if !last.IsZero() {
				w.longest = max(w.longest, time.Since(last))
			}
			last = time.Now()
		case "verified":
			w.verified = n
		case "FAILED:":
			w.failed = sc.Text()
		}
		w.mu.Unlock()
	}
}

// state is the highest acknowledged record, the longest pause between two acknowledgements since the last call, and an error the writer met.
func (w *witness) state() (acked uint64, longest time.Duration, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	acked, longest, w.longest = w.acked, w.longest, 0
	if w.failed != "" {
		err = fmt.Errorf("pod %s: %s", w.pod, w.failed)
	}
	return acked, longest, err
}

// acknowledged is the highest acknowledged record; it leaves the longest pause as it is.
func (w *witness) acknowledged() (uint64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed != "" {
		return w.acked, fmt.Errorf("pod %s: %s", w.pod, w.failed)
	}
	return w.acked, nil
}

func (w *witness) forget() {
	w.stop()
	w.wg.Wait()
}

// nodeOf is where a pod runs.
func nodeOf(ctx context.Context, l *lab.Lab, pod string) (string, error) {
	out, err := l.Kubectl(ctx, "get", "pod", pod, "-o", "jsonpath={.spec.nodeName}")
	return strings.TrimSpace(out), err
}

// running says why a pod does not run yet, "" if it does and is ready.
func running(ctx context.Context, l *lab.Lab, pod string) string {
	out, err := l.Kubectl(ctx, "get", "pod", pod, "-o", `jsonpath={.status.phase} {.status.conditions[?(@.type=="Ready")].status} {.metadata.deletionTimestamp}`)
	if err != nil {
		return err.Error()
	}
	f := strings.Fields(out)
	switch {
	case len(f) < 2:
		return "pod " + pod + " has no state"
	case len(f) > 2:
		return "pod " + pod + " is being deleted"
	case f[0] != "Running" || f[1] != "True":
		ev, _ := l.Kubectl(ctx, "get", "events", "--field-selector", "involvedObject.name="+pod+",type=Warning", "-o", "jsonpath={.items[-1:].message}")
		return fmt.Sprintf("pod %s is %s %s", pod, f[0], ev)
	}
	return ""
}

// volumeOf is the volume behind a claim.
func volumeOf(ctx context.Context, l *lab.Lab, pvc string) (string, error) {
	pv, err := l.Kubectl(ctx, "get", "pvc", pvc, "-o", "jsonpath={.spec.volumeName}")
	if err != nil {
		return "", err
	}
	out, err := l.Kubectl(ctx, "get", "pv", strings.TrimSpace(pv), "-o", "jsonpath={.spec.csi.volumeHandle}")
	return strings.TrimSpace(out), err
}
