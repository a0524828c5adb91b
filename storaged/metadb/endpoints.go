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
type endpoints struct {
	cli  *clientv3.Client
	all  []string
	log  *slog.Logger
	kick chan struct{} // capacity 1
	end  context.CancelFunc
	done sync.WaitGroup
}

const (
	probeTimeout = 500 * time.Millisecond
	reprobe      = 3 * time.Second
)

func newEndpoints(cli *clientv3.Client, all []string, log *slog.Logger) *endpoints {
	ctx, end := context.WithCancel(cli.Ctx())
	e := &endpoints{cli: cli, all: slices.Clone(all), log: log, kick: make(chan struct{}, 1), end: end}
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
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.kick:
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
