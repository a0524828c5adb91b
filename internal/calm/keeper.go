package calm

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/iomesh/iomesh/internal/beat"
)

const (
	look = time.Second
	// quietLooks is how many quiet looks in a row make a calm daemon. Each change stops the program for some microseconds.
	quietLooks = 5
	// busy is the part of a processor from which on a program is not quiet, whatever it does.
	busy = 0.15
)

// Keeper makes the program calm and wakes it. Nil is one that does nothing. Safe for concurrent use.
type Keeper struct {
	// Privileged: the threads' timers get slack with each change. Where that is not allowed, GOMAXPROCS is all that changes.
	Privileged bool
	Log        *slog.Logger // nil: none

	touched, calm atomic.Bool
	kick          chan struct{} // capacity 1

	used func() time.Duration // processor time of the program; for tests
	set  func(calm bool)      // likewise
}

// New returns a Keeper; Run does the work.
func New(privileged bool, log *slog.Logger) *Keeper {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	k := &Keeper{Privileged: privileged, Log: log, kick: make(chan struct{}, 1), used: processorTime}
	k.set = k.change(os.Getenv("GOMAXPROCS") != "", runtime.GOMAXPROCS(0))
	return k
}

// Touch says that there is work. It is cheap enough for every request, and never blocks.
func (k *Keeper) Touch() {
	if k == nil || k.touched.Load() {
		return
	}
	k.touched.Store(true)
	if k.calm.Load() {
		select {
		case k.kick <- struct{}{}:
		default:
		}
	}
}

// Run makes the program calm after some seconds without work, and wakes it when there is some, until ctx ends. Then the program is awake.
func (k *Keeper) Run(ctx context.Context) {
	tick := beat.Every(look)
	defer tick.Stop()
	quiet, last, at := 0, k.used(), time.Now()
	calm := func(on bool) {
		quiet = 0
		if k.calm.Swap(on) != on {
			k.set(on)
		}
	}
	defer calm(false)
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.kick:
			calm(false)
			continue
		case <-tick.C:
		}
		now, used := time.Now(), k.used()
		share := (used - last).Seconds() / max(now.Sub(at).Seconds(), 1e-3)
		last, at = used, now
		switch {
		case k.touched.Swap(false) || share > busy:
			calm(false)
		case k.calm.Load():
		default:
			if quiet++; quiet >= quietLooks {
				calm(true)
				// Who saw a program that was still awake did not kick.
				if k.touched.Load() {
					calm(false)
				}
			}
		}
	}
}

// change returns what sets the number of processors and the slack. A number that the environment gives is the one to return to; otherwise it is
// the runtime's default, which follows the limits of the container.
func (k *Keeper) change(given bool, procs int) func(calm bool) {
	said := false
	return func(calm bool) {
		switch {
		case calm:
			runtime.GOMAXPROCS(1)
		case given:
			runtime.GOMAXPROCS(procs)
		default:
			runtime.SetDefaultGOMAXPROCS()
		}
		if !k.Privileged {
			return
		}
		slack := Working
		if calm {
			slack = Slack
		}
		if err := slackOfThreads(slack); err != nil && !said {
			said = true
			k.Log.Info("the timers of an idle daemon stay as they are, which costs processor time", "error", err)
		}
	}
}
