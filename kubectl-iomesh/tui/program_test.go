package tui

import (
	"context"
	"errors"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"github.com/charmbracelet/x/exp/teatest/v2"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

// program is a model under bubbletea, as on a terminal.
type program struct {
	*teatest.TestModel
	t    *testing.T
	seen *strings.Builder // all that was written
}

func run(t *testing.T, m tea.Model, width, height int) *program {
	t.Helper()
	return &program{teatest.NewTestModel(t, m, teatest.WithInitialTermSize(width, height)), t, &strings.Builder{}}
}

// await returns when the screen, drawn anew, shows a text. What it waits for must be without blanks: a renderer may skip over those.
func (p *program) await(word string) {
	p.t.Helper()
	teatest.WaitFor(p.t, p.Output(), func(b []byte) bool {
		if strings.Contains(ansi.Strip(string(b)), word) {
			p.seen.Write(b)
			return true
		}
		p.Send(tea.ClearScreen())
		return false
	}, teatest.WithDuration(time.Minute), teatest.WithCheckInterval(10*time.Millisecond))
}

func (p *program) press(code rune) { p.Send(tea.KeyPressMsg{Code: code}) }

// end waits for the program to leave by itself. Without a terminal that knows colours none may have been written.
func (p *program) end() {
	p.t.Helper()
	p.WaitFinished(p.t, teatest.WithFinalTimeout(time.Minute))
	rest, err := io.ReadAll(p.Output())
	if err != nil {
		p.t.Fatal(err)
	}
	p.seen.Write(rest)
	if colour := regexp.MustCompile(`\x1b\[[0-9;]*[34][0-9][0-9;]*m`).FindString(p.seen.String()); colour != "" {
		p.t.Errorf("wrote the colour %q", colour)
	}
}

// sizes of the terminals that the screens are tried on.
var sizes = map[string][2]int{"80x24": {80, 24}, "200x60": {200, 60}}

func TestDisksAreMappedByKeysFromStartToEnd(t *testing.T) {
	for name, size := range sizes {
		t.Run(name, func(t *testing.T) {
			m := NewDiskMap(t.Context(), mapped(), func(context.Context) ([]v1alpha1.BlockDevice, error) { return machines(), nil }, func() time.Time { return now })
			p := run(t, m, size[0], size[1])
			p.await("/dev/sdd")
			p.Type("?")
			p.await("pgdown")
			p.Type("?e") // closes the help, then: only eligible ones, which are three
			p.press(tea.KeyEnter)
			p.await("chosen:")
			p.Type("a")
			p.await("[x]")
			p.press(tea.KeyDown)
			p.press(tea.KeySpace)
			p.press(tea.KeyEnter)
			p.end()
			golden(t, "mapped-"+name, m.Render(), size[0], size[1])
			if r := m.Result(); !r.Done || !slices.Equal(r.Choice.Devices, []string{"bd-1", "bd-3"}) {
				t.Errorf("result %+v", r)
			}
		})
	}
}

// A server that is away is told, and nothing can be decided until it is back.
func TestDisksAreMappedOnceTheServerIsBack(t *testing.T) {
	var mu sync.Mutex
	gone := false
	set := func(to bool) { mu.Lock(); defer mu.Unlock(); gone = to }
	m := NewDiskMap(t.Context(), mapped(), func(context.Context) ([]v1alpha1.BlockDevice, error) {
		mu.Lock()
		defer mu.Unlock()
		if gone {
			return nil, errors.New("dial tcp 10.0.0.1:6443:\nconnect: connection refused")
		}
		return machines(), nil
	}, func() time.Time { return now })
	p := run(t, m, 80, 24)
	p.await("/dev/sdd")
	p.Type("a")
	set(true)
	p.Type("r")
	p.await("STALE")
	p.press(tea.KeyEnter)
	p.await("wait") // until the cluster answers
	set(false)
	p.Type("r")
	p.await("Pool")
	// Enter decides nothing until the answer to r has come.
	ended := make(chan struct{})
	go func() { p.GetProgram().Wait(); close(ended) }()
	for open := true; open; {
		select {
		case <-ended:
			open = false
		case <-time.After(10 * time.Millisecond):
			p.press(tea.KeyEnter)
		}
	}
	p.end()
	if r := m.Result(); !r.Done || len(r.Choice.Devices) != 3 {
		t.Errorf("result %+v", r)
	}
}

// rolling is an upgrade whose keys have their effect on a fleet.
type rolling struct {
	mu sync.Mutex
	f  *fleet
}

func (r *rolling) edit(do func(*fleet)) { r.mu.Lock(); defer r.mu.Unlock(); do(r.f) }

func (r *rolling) state(context.Context) (u *report.Upgrade, err error) {
	r.edit(func(f *fleet) { u = f.state() })
	return u, nil
}

func (r *rolling) actions() UpgradeActions {
	does := func(say string, do func(*fleet)) UpgradeAction {
		return func(context.Context) (string, error) { r.edit(do); return say, nil }
	}
	return UpgradeActions{
		Pause: does("held", func(f *fleet) {
			f.cluster.Annotations = map[string]string{v1alpha1.AnnotationPauseUpdate: "by-key"}
		}),
		Resume:   does("released", func(f *fleet) { f.cluster.Annotations = nil }),
		Rollback: does("returning-to-v1", func(f *fleet) { f.target = oldImage }),
	}
}

func TestAnUpgradeIsPausedResumedAndRolledBackByKeys(t *testing.T) {
	for name, size := range sizes {
		t.Run(name, func(t *testing.T) {
			r := &rolling{f: newFleet().updated("worker-1", "worker-4")}
			m := NewUpgrade(t.Context(), r.state, r.actions(), func() time.Time { return now })
			p := run(t, m, size[0], size[1])
			p.await("worker-3")
			p.Type("p")
			p.await("y/n")
			p.Type("y")
			p.await("held")
			p.Type("r")
			p.await("PAUSED")
			p.Type("py")
			p.await("released")
			// A rollback thought better of, and then one that is meant.
			p.Type("b")
			p.await("--rollback")
			p.Type("n")
			p.await("nothing")
			p.Type("ay")
			p.await("returning-to-v1")
			p.Type("r")
			p.await("iomesh/iomesh:v1")
			r.edit(func(f *fleet) {
				for _, n := range []string{"worker-1", "worker-4"} {
					f.set(n, "", onOld)
				}
			})
			p.Type("r")
			p.await("DONE")
			p.Type("q")
			p.end()
			golden(t, "upgrade-rolled-back-"+name, m.Render(), size[0], size[1])
			if !m.Done() {
				t.Error("left as not done")
			}
		})
	}
}

// An upgrade that is left goes on, and its screen says so by not being done.
func TestAnUpgradeThatIsLeftIsNotDone(t *testing.T) {
	r := &rolling{f: newFleet().updated("worker-1")}
	m := NewUpgrade(t.Context(), r.state, r.actions(), func() time.Time { return now })
	p := run(t, m, 80, 24)
	p.await("worker-3")
	p.press(tea.KeyEscape)
	p.end()
	if m.Done() {
		t.Error("left as done")
	}
}
