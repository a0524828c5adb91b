package stacksim

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/iomesh/iomesh/storaged/metadb"
)

// etcdState is how etcd answers a client.
type etcdState uint8

const (
	etcdUp etcdState = iota
	// etcdStalled answers nothing. What was asked meanwhile is done when it is over, or never.
	etcdStalled
	// etcdMute does what it is asked and does not answer.
	etcdMute
	// etcdDenying refuses at once.
	etcdDenying
)

// etcdClient is the way of one process to etcd. It implements clientv3.KV and clientv3.Watcher as far as package metadb uses them.
type etcdClient struct {
	clientv3.KV // what is not used
	clientv3.Watcher
	e   *etcd
	ctx context.Context // ends with the process

	mu      sync.Mutex
	rng     *rand.Rand
	state   etcdState
	changed chan struct{} // closed and replaced when state changes
	waiting []func()      // what is done when a stall ends, whoever still waits for it
}

func newEtcdClient(ctx context.Context, e *etcd, rng *rand.Rand) *etcdClient {
	return &etcdClient{e: e, ctx: ctx, rng: rng, changed: make(chan struct{})}
}

// client makes a clientv3.Client of it.
func (c *etcdClient) client() *clientv3.Client {
	cli := clientv3.NewCtxClient(c.ctx)
	cli.KV, cli.Watcher = c, c
	return cli
}

func (c *etcdClient) db(w *World, name string) *metadb.DB { return metadb.New(c.client(), w.log(name)) }

func (c *etcdClient) set(s etcdState) {
	c.mu.Lock()
	c.state = s
	close(c.changed)
	c.changed = make(chan struct{})
	var late []func()
	if s == etcdUp {
		late, c.waiting = c.waiting, nil
	}
	c.mu.Unlock()
	for _, f := range late {
		f()
	}
}

func (c *etcdClient) random(lo, hi time.Duration) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return lo + time.Duration(c.rng.Int64N(int64(hi-lo)))
}

func (c *etcdClient) chance(percent int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.IntN(100) < percent
}

// Etcd answers in about this time.
const etcdLo, etcdHi = 200 * time.Microsecond, 4 * time.Millisecond

// call does one request with the faults of the way to etcd.
func (c *etcdClient) call(ctx context.Context, do func() error) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if err := pause(ctx, c.random(etcdLo, etcdHi)); err != nil {
		return ctx.Err()
	}
	var once sync.Once
	var err error
	done := make(chan struct{})
	run := func() { once.Do(func() { err = do(); close(done) }) }
	queued := false
	for {
		c.mu.Lock()
		state, changed := c.state, c.changed
		if state == etcdStalled && !queued {
			queued = true
			if c.rng.IntN(2) == 0 {
				c.waiting = append(c.waiting, run)
			}
		}
		c.mu.Unlock()
		answered := false
		switch state {
		case etcdUp:
			run()
			answered = true
		case etcdMute:
			run()
		case etcdDenying:
			if !queued {
				return status.Error(codes.Unavailable, "etcdserver: no leader")
			}
		}
		if answered {
			if err := pause(ctx, c.random(etcdLo, etcdHi)); err != nil {
				return ctx.Err()
			}
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.ctx.Done():
			return c.ctx.Err()
		case <-changed:
		}
	}
}

// Txn implements clientv3.KV.
func (c *etcdClient) Txn(ctx context.Context) clientv3.Txn { return &etcdTxn{c: c, ctx: ctx} }

type etcdTxn struct {
	c            *etcdClient
	ctx          context.Context
	cmps         []clientv3.Cmp
	then, orElse []clientv3.Op
}

// If, Then, Else and Commit implement clientv3.Txn.
func (t *etcdTxn) If(cs ...clientv3.Cmp) clientv3.Txn {
	t.cmps = append(t.cmps, cs...)
	return t
}

// Then implements clientv3.Txn.
func (t *etcdTxn) Then(ops ...clientv3.Op) clientv3.Txn {
	t.then = append(t.then, ops...)
	return t
}

// Else implements clientv3.Txn.
func (t *etcdTxn) Else(ops ...clientv3.Op) clientv3.Txn {
	t.orElse = append(t.orElse, ops...)
	return t
}

// Commit implements clientv3.Txn.
func (t *etcdTxn) Commit() (*clientv3.TxnResponse, error) {
	var resp *pb.TxnResponse
	err := t.c.call(t.ctx, func() (err error) {
		resp, err = t.c.e.commit(t.cmps, t.then, t.orElse)
		return err
	})
	if err != nil {
		return nil, err
	}
	return (*clientv3.TxnResponse)(resp), nil
}

// Watch implements clientv3.Watcher.
func (c *etcdClient) Watch(ctx context.Context, key string, opts ...clientv3.OpOption) clientv3.WatchChan {
	op := clientv3.OpGet(key, opts...)
	out := make(chan clientv3.WatchResponse)
	go func() {
		defer close(out)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(c.ctx, cancel)()
		next := op.Rev()
		for {
			c.mu.Lock()
			state, stateChanged := c.state, c.changed
			c.mu.Unlock()
			if state == etcdStalled || state == etcdMute {
				select {
				case <-ctx.Done():
					return
				case <-stateChanged:
				}
				continue
			}
			if state == etcdDenying && c.chance(50) {
				return // the stream breaks; the follower watches again
			}
			events, upTo, compacted, changed := c.e.since(op.KeyBytes(), op.RangeBytes(), next)
			r := clientv3.WatchResponse{Header: &pb.ResponseHeader{Revision: upTo}, Events: events}
			switch {
			case compacted != 0:
				r = clientv3.WatchResponse{CompactRevision: compacted, Canceled: true}
			case len(events) == 0:
				next = max(next, upTo+1)
				select {
				case <-ctx.Done():
					return
				case <-stateChanged:
				case <-changed:
					// What was committed is not known everywhere at once.
					if pause(ctx, c.lag()) != nil {
						return
					}
				}
				continue
			}
			select {
			case <-ctx.Done():
				return
			case out <- r:
			}
			if compacted != 0 {
				return
			}
			next = upTo + 1
		}
	}()
	return out
}

// lag is how long an event takes to a watcher: mostly milliseconds, now and then much more.
func (c *etcdClient) lag() time.Duration {
	if c.chance(3) {
		return c.random(10*time.Millisecond, 300*time.Millisecond)
	}
	return c.random(etcdLo, etcdHi)
}

// Close implements clientv3.Watcher.
func (c *etcdClient) Close() error { return nil }
