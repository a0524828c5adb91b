package initiator

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/iomesh/iomesh/internal/scsi"
)

// Counters of a session.
type Counters struct {
	// Reconnects counts connections made after the first.
	Reconnects uint64
	// LongestOutage is the longest time between the loss of a connection and the next; LongestCommand that between Submit and Done.
	LongestOutage, LongestCommand time.Duration
	// Commands counts those that ended.
	Commands uint64
}

// Session is a session with a logical unit. All methods may be called concurrently.
type Session struct {
	opt    Options
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // the connecting goroutine has ended

	wg sync.WaitGroup // short-lived helpers: looking at the size, leaving a connection

	mu       sync.Mutex
	size     uint64 // last known, if OnResize is set
	up       *conn  // nil while there is none
	changed  chan struct{}
	failed   error // requests fail at once with this: ErrUnreachable, ErrRefused or ErrClosed
	lastErr  error
	queue    list       // to be sent
	slots    []*Request // in progress at the target, by tag
	free     []uint32
	counters Counters
	lostAt   time.Time
	address  string
}

// list is a queue of requests.
type list struct{ head, tail *Request }

func (l *list) push(r *Request) {
	r.next = nil
	if l.tail == nil {
		l.head = r
	} else {
		l.tail.next = r
	}
	l.tail = r
}

func (l *list) pop() *Request {
	r := l.head
	if r != nil {
		l.head = r.next
		if l.head == nil {
			l.tail = nil
		}
		r.next = nil
	}
	return r
}

// Dial opens a session. It returns when a portal serves the target, when login was refused for good, or when ctx ends.
func Dial(ctx context.Context, o Options) (*Session, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Session{opt: o, done: make(chan struct{}), changed: make(chan struct{})}
	s.slots = make([]*Request, o.QueueDepth)
	for i := range s.slots {
		s.free = append(s.free, uint32(len(s.slots)-1-i))
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	c, err := s.first(ctx)
	if err != nil {
		s.cancel()
		return nil, err
	}
	s.install(c)
	go s.run(c)
	if o.OnResize != nil {
		// What is known before anything can change.
		c, err := s.ReadCapacity(ctx)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.mu.Lock()
		s.size = c.SizeBytes
		s.mu.Unlock()
	}
	return s, nil
}

// first connects for Dial.
func (s *Session) first(ctx context.Context) (*conn, error) {
	for delay := backoffMin; ; delay = min(delay*2, backoffMax) {
		c, err := s.connect(ctx)
		if err == nil {
			return c, nil
		}
		if permanent(err) {
			return nil, fmt.Errorf("log in to %s: %w", s.opt.Target, err)
		}
		s.lastErr = err
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("log in to %s at %v: %w (last: %w)", s.opt.Target, s.opt.Portals, ctx.Err(), err)
		case <-time.After(delay):
		}
	}
}

// run keeps a connection until the session is closed.
func (s *Session) run(c *conn) {
	defer close(s.done)
	for {
		err := c.serve(s.ctx)

		s.mu.Lock()
		s.up = nil
		s.lostAt = time.Now()
		close(s.changed)
		s.changed = make(chan struct{})
		s.lastErr = err
		lost := s.requeueLocked()
		s.mu.Unlock()
		finish(lost)
		if s.ctx.Err() != nil {
			s.failAll(ErrClosed)
			return
		}
		s.opt.Log.Info("iSCSI connection lost", slog.String("target", s.opt.Target), slog.String("portal", c.address), slog.Any("error", err))
		if c = s.reconnect(); c == nil {
			s.failAll(ErrClosed)
			return
		}
		s.install(c)
		s.lookAtSize()
	}
}

// install makes c the connection of the session.
func (s *Session) install(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up = c
	s.failed = nil
	s.address = c.address
	if !s.lostAt.IsZero() {
		s.counters.Reconnects++
		s.counters.LongestOutage = max(s.counters.LongestOutage, time.Since(s.lostAt))
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

const (
	backoffMin = 10 * time.Millisecond
	backoffMax = 200 * time.Millisecond
)

// refusedPause is how long is waited after a portal has refused us for good.
const refusedPause = time.Second

// reconnect tries until there is a connection (nil: the session was closed). What waits fails after Replacement, or at once when every
// portal that answers refuses us for good: the grant is gone, or the target. It is asked again all the same, more rarely, since both can
// come back.
func (s *Session) reconnect() *conn {
	expired := time.AfterFunc(s.opt.Replacement, func() {
		s.mu.Lock()
		last := s.lastErr
		s.mu.Unlock()
		s.failAll(fmt.Errorf("%w for %s: %w", ErrUnreachable, s.opt.Replacement, last))
	})
	defer expired.Stop()
	for delay := backoffMin; ; delay = min(delay*2, backoffMax) {
		c, err := s.connect(s.ctx)
		if err == nil {
			return c
		}
		s.mu.Lock()
		s.lastErr = err
		s.mu.Unlock()
		if permanent(err) {
			s.failAll(fmt.Errorf("%w: %w", ErrRefused, err))
			delay = refusedPause
		}
		select {
		case <-s.ctx.Done():
			return nil
		case <-time.After(delay):
		}
	}
}

// requeueLocked puts what was in progress back to the front of the queue, in order of submission, and returns what must not be repeated.
func (s *Session) requeueLocked() (lost list) {
	var again []*Request
	for tag, r := range s.slots {
		if r == nil {
			continue
		}
		s.slots[tag] = nil
		s.free = append(s.free, uint32(tag))
		r.sent = false
		r.r2t = r2t{}
		if !r.repeatable() {
			r.Err = ErrOutcomeUnknown
			lost.push(r)
			continue
		}
		if r.OnRepeat != nil {
			r.OnRepeat(r)
		}
		again = append(again, r)
	}
	// The order does not matter for correctness: overlapping writes in progress together have none.
	for _, r := range again {
		r.next = s.queue.head
		s.queue.head = r
		if s.queue.tail == nil {
			s.queue.tail = r
		}
	}
	return lost
}

func finish(l list) {
	for r := l.pop(); r != nil; r = l.pop() {
		r.Done(r)
	}
}

// failAll ends everything that waits, and what is submitted until there is a connection.
func (s *Session) failAll(err error) {
	s.mu.Lock()
	if s.up != nil {
		s.mu.Unlock()
		return // there is one after all
	}
	s.failed = err
	l := s.queue
	s.queue = list{}
	s.mu.Unlock()
	for r := l.head; r != nil; r = r.next {
		r.Err = err
	}
	finish(l)
}

// Submit starts a request. It does not block; Done is called in every case, possibly before Submit returns.
func (s *Session) Submit(r *Request) {
	r.Err, r.Status, r.Sense, r.Residual, r.tries = nil, scsi.Good, scsi.Sense{}, 0, 0
	r.sent, r.r2t = false, r2t{}
	r.started = time.Now()
	if err := r.build(); err != nil {
		r.Err = err
		r.Done(r)
		return
	}
	s.enqueue(r)
}

func (s *Session) enqueue(r *Request) {
	s.mu.Lock()
	if s.failed != nil {
		r.Err = s.failed
		s.mu.Unlock()
		r.Done(r)
		return
	}
	s.queue.push(r)
	if c := s.up; c != nil {
		c.wakeLocked()
	}
	s.mu.Unlock()
}

// Close ends the session: what is unfinished fails with ErrClosed, the target is told by a logout if it answers quickly.
func (s *Session) Close() error {
	s.mu.Lock()
	c := s.up
	s.mu.Unlock()
	if c != nil {
		c.logout(500 * time.Millisecond)
	}
	s.cancel()
	<-s.done
	s.wg.Wait()
	return nil
}

// Counters returns a copy of the counters.
func (s *Session) Counters() Counters {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counters
}

// Portal is the address of the connection, or of the last one; Connected says whether there is one.
func (s *Session) Portal() (address string, connected bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.address, s.up != nil
}
