package metadb

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// endpoints keeps silent etcd members out of the client's rotation. gRPC notices a frozen member only after its
// keep-alive (10 s at least), far beyond the time in which a chunk must learn that it owns a volume now.
//
//	all in use --suspicion--> probe all --some silent--> answering ones in use --every reprobe--> probe all …
//
// With discover it also follows the list of members: one that connects while the cluster still grows would else know only the
// first member, and be blind without it.
type endpoints struct {
	cli      *clientv3.Client
	all      []string // of the goroutine of run
	discover bool
	log      *slog.Logger
	kick     chan struct{} // capacity 1
	told     chan []string // capacity 1
	end      context.CancelFunc
	done     sync.WaitGroup
}

const (
	probeTimeout = 500 * time.Millisecond
	reprobe      = 3 * time.Second
	// relist is how often the list of members is read; listTimeout bounds one reading.
	relist      = 10 * time.Second
	listTimeout = 2 * time.Second
)

func newEndpoints(cli *clientv3.Client, all []string, discover bool, log *slog.Logger) *endpoints {
	ctx, end := context.WithCancel(cli.Ctx())
	e := &endpoints{cli: cli, all: slices.Clone(all), discover: discover, log: log, kick: make(chan struct{}, 1), told: make(chan []string, 1), end: end}
	e.done.Go(func() { e.run(ctx) })
	return e
}

func (e *endpoints) stop() {
	e.end()
	e.done.Wait()
}

// probe asks for a probe soon; it never blocks.
func (e *endpoints) probe() {
	select {
	case e.kick <- struct{}{}:
	default:
	}
}

func (e *endpoints) run(ctx context.Context) {
	inUse := e.all
	timer := time.NewTimer(reprobe)
	timer.Stop()
	defer timer.Stop()
	var list <-chan time.Time
	if e.discover {
		t := time.NewTicker(relist)
		defer t.Stop()
		list = t.C
		e.probe() // at once for the first time
	}
	for first := e.discover; ; first = false {
		select {
		case <-ctx.Done():
			return
		case all := <-e.told:
			if !e.learn(all) {
				continue
			}
		case <-list:
			if !e.relist(ctx) {
				continue
			}
		case <-e.kick:
			if first && !e.relist(ctx) {
				continue
			}
		case <-timer.C:
		}
		good := e.answering(ctx)
		if ctx.Err() != nil {
			return
		}
		if len(good) == 0 {
			good = e.all // nothing to choose from: let the client try them all
		}
		if !slices.Equal(good, inUse) {
			e.log.Info("etcd endpoints in use changed", "using", good, "all", e.all)
			e.cli.SetEndpoints(good...)
			inUse = good
		}
		if len(good) < len(e.all) {
			timer.Reset(reprobe)
		}
	}
}

// answering returns the endpoints that answered within probeTimeout, in the order given.
func (e *endpoints) answering(ctx context.Context) []string {
	ok := make([]bool, len(e.all))
	var wg sync.WaitGroup
	for i, ep := range e.all {
		wg.Go(func() {
			pctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			_, err := e.cli.Status(pctx, ep)
			ok[i] = err == nil
		})
	}
	wg.Wait()
	var good []string
	for i, ep := range e.all {
		if ok[i] {
			good = append(good, ep)
		}
	}
	return good
}

// relist reads the list of members and reports whether it has changed.
func (e *endpoints) relist(ctx context.Context) bool {
	lctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	resp, err := e.cli.MemberList(lctx)
	if err != nil {
		return false // no quorum, or a silent member: the list that is known serves
	}
	var all []string
	for _, m := range resp.Members {
		// A learner answers no reads; one without addresses has not started yet.
		if !m.IsLearner {
			all = append(all, m.ClientURLs...)
		}
	}
	return e.learn(all)
}

// learn takes over a list of addresses and reports whether it is a new one.
func (e *endpoints) learn(all []string) bool {
	slices.Sort(all)
	all = slices.Compact(all)
	known := slices.Clone(e.all)
	slices.Sort(known)
	if len(all) == 0 || slices.Equal(all, known) {
		return false
	}
	e.log.Info("etcd members changed", "before", e.all, "now", all)
	e.all = all
	return true
}

// Endpoints tells where all members are now, if the caller has heard of it from somebody else. It never blocks; of two quick calls the
// second may be lost.
func (d *DB) Endpoints(all []string) {
	if d.ends == nil || !d.ends.discover {
		return
	}
	select {
	case d.ends.told <- slices.Clone(all):
	default:
	}
}
