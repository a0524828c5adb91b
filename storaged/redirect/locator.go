package redirect

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/internal/rpc"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// metaLocator asks the meta members, beginning with the one that answered last.
type metaLocator struct {
	conns []*grpc.ClientConn
	dial  func(ctx context.Context, address string) (net.Conn, error)

	mu    sync.Mutex
	first int

	answered, unanswered atomic.Uint64 // questions
}

func newMetaLocator(addrs []string, src *mtls.Source, dial func(context.Context, string) (net.Conn, error)) (*metaLocator, error) {
	l := &metaLocator{dial: dial}
	if dial == nil {
		l.dial = rpc.Dial
	}
	for _, a := range addrs {
		c, err := rpc.Connect(a, rpc.Options{Credentials: src.ClientCredentials(mtls.RoleMeta), Dial: dial})
		if err != nil {
			l.close()
			return nil, fmt.Errorf("meta member: %w", err)
		}
		l.conns = append(l.conns, c)
	}
	return l, nil
}

func (l *metaLocator) close() {
	for _, c := range l.conns {
		_ = c.Close()
	}
}

const (
	// askMax bounds one question to one member; after askNext without an answer the next member is asked besides. One that is frozen or cut off
	// must not hold up a login.
	askMax  = 700 * time.Millisecond
	askNext = 150 * time.Millisecond
)

type answer[T any] struct {
	value  T
	err    error
	member int
}

// final reports whether a member has answered, be it with a refusal.
func (a *answer[T]) final() bool {
	switch status.Code(a.err) {
	case codes.OK, codes.NotFound, codes.InvalidArgument:
		return true
	}
	return false
}

// ask puts a question to the members, one after the other until one answers.
func ask[T any](ctx context.Context, l *metaLocator, f func(context.Context, storagedv1.VolumesClient) (T, error)) (T, error) {
	l.mu.Lock()
	first := l.first
	l.mu.Unlock()
	actx, cancel := context.WithTimeout(ctx, askMax+time.Duration(len(l.conns)-1)*askNext)
	defer cancel() // ends the questions that have not been answered
	answers := make(chan answer[T], len(l.conns))
	next, open := 0, 0
	begin := func() {
		k := (first + next) % len(l.conns)
		next++
		open++
		go func() {
			qctx, cancel := context.WithTimeout(actx, askMax)
			defer cancel()
			v, err := f(qctx, storagedv1.NewVolumesClient(l.conns[k]))
			answers <- answer[T]{v, err, k}
		}()
	}
	patience := time.NewTimer(askNext)
	defer patience.Stop()
	begin()
	var last answer[T]
	for open > 0 {
		select {
		case last = <-answers:
			open--
			if last.final() {
				l.mu.Lock()
				l.first = last.member
				l.mu.Unlock()
				l.answered.Add(1)
				return last.value, last.err
			}
			if next < len(l.conns) && ctx.Err() == nil {
				begin()
				patience.Reset(askNext)
			}
		case <-patience.C:
			if next < len(l.conns) {
				begin()
				patience.Reset(askNext)
			}
		}
	}
	l.unanswered.Add(1)
	return last.value, last.err
}

// pollEvery is how often an owner is asked for while there is none.
const pollEvery = 50 * time.Millisecond

// dialMax bounds the attempt to reach an owner before an initiator is sent there: one on a node that is cut off would keep the login hanging while
// another owner is on its way.
const dialMax = 300 * time.Millisecond

func (l *metaLocator) reachable(ctx context.Context, portal string) bool {
	ctx, cancel := context.WithTimeout(ctx, dialMax)
	defer cancel()
	c, err := l.dial(ctx, portal)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// Locate implements Locator.
func (l *metaLocator) Locate(ctx context.Context, login target.Login) (string, error) {
	begun := time.Now()
	for {
		r, err := ask(ctx, l, func(ctx context.Context, c storagedv1.VolumesClient) (*storagedv1.LocateResponse, error) {
			return c.Locate(ctx, &storagedv1.LocateRequest{Iqn: login.Target})
		})
		switch code := status.Code(err); {
		case code == codes.NotFound || code == codes.InvalidArgument:
			return "", fmt.Errorf("%w: %s", target.ErrNoTarget, status.Convert(err).Message())
		case err != nil:
			return "", fmt.Errorf("no meta member answers: %w", err)
		case r.Portal != "" && (l.reachable(ctx, r.Portal) || time.Since(begun) > timeouts.OwnerDoubt):
			return r.Portal, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("%s has no owner: %w", login.Target, context.Cause(ctx))
		case <-time.After(pollEvery):
		}
	}
}

// Targets implements Locator.
func (l *metaLocator) Targets(ctx context.Context, login target.Login) ([]string, error) {
	var out []string
	page := ""
	for {
		r, err := ask(ctx, l, func(ctx context.Context, c storagedv1.VolumesClient) (*storagedv1.ListVolumesResponse, error) {
			return c.ListVolumes(ctx, &storagedv1.ListVolumesRequest{PageToken: page})
		})
		if err != nil {
			return nil, fmt.Errorf("list volumes: %w", err)
		}
		for _, v := range r.Volumes {
			if slices.ContainsFunc(v.Grants, func(g *storagedv1.Grant) bool { return g.Initiator == "*" || g.Initiator == login.Initiator }) {
				out = append(out, v.Iqn)
			}
		}
		if page = r.NextPageToken; page == "" {
			return out, nil
		}
	}
}
