package metadb

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	mvccpb "go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/metadata"
)

// batch is what follow delivers: the complete content of the ranges (reset), or changes after it.
type batch struct {
	reset    bool
	put      []*mvccpb.KeyValue
	deleted  []string
	revision int64
}

const (
	pageKeys = 10000 // keys read in one request of a listing
	// pulse is the interval at which etcd is asked to prove that the watch stream is alive, silence how long it may fail to.
	pulse   = 700 * time.Millisecond
	silence = 1500 * time.Millisecond
)

// follow delivers the content of a range of keys and then every change of it, in order of revision and without gaps,
// until ctx ends or emit returns false. After a compaction has overtaken it, it lists again.
//
//	list at R --> emit reset --> watch from R, without R --> emit changes …
//	                ^                  | compacted
//	                +------------------+
//	broken or silent stream: watch again from the last revision
func (d *DB) follow(ctx context.Context, prefix string, emit func(batch) bool) {
	for ctx.Err() == nil {
		b, err := d.list(ctx, prefix)
		if err != nil {
			d.log.Warn("listing metadata failed", "prefix", prefix, "error", err)
			pause(ctx, time.Second)
			continue
		}
		if !emit(b) {
			return
		}
		rev := b.revision
		for ctx.Err() == nil {
			compacted, more := d.watch(ctx, prefix, &rev, emit)
			if !more {
				return
			}
			if compacted {
				d.log.Info("metadata watch fell behind a compaction; listing again", "prefix", prefix, "revision", rev)
				break
			}
			pause(ctx, retryPause)
		}
	}
}

// list reads a range page by page, all at the revision of the first page.
func (d *DB) list(ctx context.Context, prefix string) (batch, error) {
	out := batch{reset: true}
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(pageKeys)}
		if out.revision != 0 {
			opts = append(opts, clientv3.WithRev(out.revision))
		}
		resp, err := d.read(ctx, clientv3.OpGet(from, opts...))
		if err != nil {
			return batch{}, fmt.Errorf("list %q: %w", prefix, err)
		}
		if out.revision == 0 {
			out.revision = resp.Header.Revision
		}
		r := resp.Responses[0].GetResponseRange()
		out.put = append(out.put, r.Kvs...)
		if !r.More || len(r.Kvs) == 0 {
			return out, nil
		}
		from = string(r.Kvs[len(r.Kvs)-1].Key) + "\x00"
	}
}

// watch runs one watch after *rev and moves *rev along. more is false once emit has said so.
func (d *DB) watch(ctx context.Context, prefix string, rev *int64, emit func(batch) bool) (compacted, more bool) {
	wctx, cancel := context.WithCancel(d.streams.context(ctx))
	defer cancel()
	var quiet <-chan time.Time
	var timer *time.Timer
	silent := func() {
		d.log.Warn("metadata watch is silent; opening it at another member", "prefix", prefix, "silent", silence)
		d.streams.renew(wctx)
		d.ends.probe()
	}
	var opened *time.Timer
	if d.ends != nil {
		defer d.streams.join(d)()
		// Watch returns only when the member has answered.
		opened = time.AfterFunc(silence, cancel)
	}
	// From *rev, not from what follows: a member gives no sign of life to a watch that begins in the future, so that one of quiet metadata would be
	// taken for silent and opened again for ever. What is known already is left out below.
	ch := d.cli.Watch(wctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(*rev))
	if d.ends != nil {
		if !opened.Stop() {
			silent()
			return false, true
		}
		timer = time.NewTimer(silence)
		defer timer.Stop()
		quiet = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return false, true
		case <-quiet:
			silent()
			return false, true
		case resp, ok := <-ch:
			if !ok {
				return false, true
			}
			if timer != nil {
				timer.Reset(silence)
			}
			if resp.CompactRevision != 0 {
				return true, true
			}
			if err := resp.Err(); err != nil {
				d.log.Warn("metadata watch ended", "prefix", prefix, "error", err)
				return errors.Is(err, rpctypes.ErrCompacted), true
			}
			if len(resp.Events) == 0 {
				continue
			}
			b := batch{revision: resp.Header.Revision}
			for _, ev := range resp.Events {
				if ev.Kv.ModRevision <= *rev {
					continue
				}
				if ev.Type == mvccpb.Event_DELETE {
					b.deleted = append(b.deleted, string(ev.Kv.Key))
				} else {
					b.put = append(b.put, ev.Kv)
				}
				b.revision = ev.Kv.ModRevision
			}
			if len(b.put)+len(b.deleted) == 0 {
				continue
			}
			if !emit(b) {
				return false, false
			}
			*rev = b.revision
		}
	}
}

func pause(ctx context.Context, t time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(t):
	}
}

// streams decides on which gRPC stream watches run. The client keeps one stream per distinct set of request headers, so a
// counter in a header makes a new stream where the old one is stuck at a frozen member.
type streams struct {
	mu      sync.Mutex
	number  uint64
	watches int
	stop    context.CancelFunc // of the pulse; set while watches > 0
	stopped chan struct{}
}

type streamNumber struct{}

func (s *streams) context(ctx context.Context) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.contextLocked(ctx)
}

func (s *streams) contextLocked(ctx context.Context) context.Context {
	md := metadata.Pairs("iomesh-stream", strconv.FormatUint(s.number, 10), "hasleader", "true")
	return context.WithValue(metadata.NewOutgoingContext(ctx, md), streamNumber{}, s.number)
}

// renew makes later watches use a new stream, unless another watch of the same stream asked before.
func (s *streams) renew(used context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n, _ := used.Value(streamNumber{}).(uint64); n == s.number {
		s.number++
	}
}

// join counts a watch; while there is any, a goroutine asks for a sign of life every pulse. The returned function leaves
// and, for the last, waits for the goroutine's end.
func (s *streams) join(d *DB) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watches++
	if s.watches == 1 {
		ctx, stop := context.WithCancel(d.cli.Ctx())
		stopped := make(chan struct{})
		s.stop, s.stopped = stop, stopped
		go func() {
			defer close(stopped)
			tick := time.NewTicker(pulse)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					rctx, cancel := context.WithTimeout(s.context(ctx), pulse)
					_ = d.cli.RequestProgress(rctx) // a failure shows as silence
					cancel()
				}
			}
		}()
	}
	return func() {
		s.mu.Lock()
		s.watches--
		var wait chan struct{}
		if s.watches == 0 {
			s.stop()
			wait = s.stopped
		}
		s.mu.Unlock()
		if wait != nil {
			<-wait
		}
	}
}
