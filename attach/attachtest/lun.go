// Package attachtest has a LUN over a sparse file, for tests of everything above the iSCSI session: it can be made to fail, to
// hold requests back and to grow, and counts what it was asked.
package attachtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/iomesh/iomesh/attach/daemon"
	"golang.org/x/sys/unix"
)

// Store is a directory of volumes, and a daemon.Dialer that opens them. The volume of IQN x is the file x.
type Store struct {
	dir string

	mu     sync.Mutex
	luns   map[string]*LUN // open ones, by IQN
	dialed map[string]daemon.Target
	// Refuse, if set, is asked before each login.
	refuse func(daemon.Target) error
}

// NewStore makes a store in an existing directory.
func NewStore(dir string) *Store {
	return &Store{dir: dir, luns: map[string]*LUN{}, dialed: map[string]daemon.Target{}}
}

// SetRefuse installs a check of logins; its error is what Dial returns.
func (s *Store) SetRefuse(f func(daemon.Target) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = f
}

// Path is the file of a volume.
func (s *Store) Path(iqn string) string { return filepath.Join(s.dir, filepath.Base(iqn)) }

// Create makes or grows a volume. An open LUN announces the new size.
func (s *Store) Create(iqn string, sizeBytes int64) error {
	f, err := os.OpenFile(s.Path(iqn), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(sizeBytes); err != nil {
		return err
	}
	if l := s.Open(iqn); l != nil {
		select {
		case l.resized <- struct{}{}:
		default:
		}
	}
	return nil
}

// Remove deletes a volume.
func (s *Store) Remove(iqn string) error { return os.Remove(s.Path(iqn)) }

// Open returns the open LUN of a volume, or nil.
func (s *Store) Open(iqn string) *LUN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.luns[iqn]
}

// Dialed returns the parameters of the last login to a target.
func (s *Store) Dialed(iqn string) daemon.Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dialed[iqn]
}

// Dial implements daemon.Dialer.
func (s *Store) Dial(_ context.Context, t daemon.Target) (daemon.LUN, error) {
	s.mu.Lock()
	refuse := s.refuse
	s.mu.Unlock()
	if refuse != nil {
		if err := refuse(t); err != nil {
			return nil, err
		}
	}
	f, err := os.OpenFile(s.Path(t.IQN), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", daemon.ErrNotFound, err)
	}
	l := &LUN{store: s, iqn: t.IQN, file: f, resized: make(chan struct{}, 1)}
	if _, err := l.Refresh(context.Background()); err != nil {
		f.Close()
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.luns[t.IQN] = l
	s.dialed[t.IQN] = t
	return l, nil
}

// LUN implements daemon.LUN.
type LUN struct {
	store   *Store
	iqn     string
	file    *os.File
	size    atomic.Int64
	resized chan struct{}

	// Counters of requests served.
	Reads, Writes, Flushes, Unmaps, Zeroes atomic.Int64
	// InFlightMax is the most requests that were served at once.
	InFlightMax atomic.Int64
	inFlight    atomic.Int64

	mu   sync.Mutex
	fail func(op string, offset, length int64) error
	gate chan struct{}
}

// SetFail installs a function that may fail each request.
func (l *LUN) SetFail(f func(op string, offset, length int64) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fail = f
}

// Hold keeps every request back until the returned function is called.
func (l *LUN) Hold() (release func()) {
	gate := make(chan struct{})
	l.mu.Lock()
	l.gate = gate
	l.mu.Unlock()
	return sync.OnceFunc(func() {
		l.mu.Lock()
		l.gate = nil
		l.mu.Unlock()
		close(gate)
	})
}

// InFlight is the number of requests being served now, those held back included.
func (l *LUN) InFlight() int64 { return l.inFlight.Load() }

func (l *LUN) do(ctx context.Context, op string, count *atomic.Int64, offset, length int64, f func() error) error {
	n := l.inFlight.Add(1)
	defer l.inFlight.Add(-1)
	for m := l.InFlightMax.Load(); n > m && !l.InFlightMax.CompareAndSwap(m, n); m = l.InFlightMax.Load() {
	}
	l.mu.Lock()
	fail, gate := l.fail, l.gate
	l.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if fail != nil {
		if err := fail(op, offset, length); err != nil {
			return err
		}
	}
	count.Add(1)
	return f()
}

// ReadAt implements daemon.LUN.
func (l *LUN) ReadAt(ctx context.Context, p []byte, offset int64) error {
	return l.do(ctx, "read", &l.Reads, offset, int64(len(p)), func() error {
		_, err := l.file.ReadAt(p, offset)
		return err
	})
}

// WriteAt implements daemon.LUN.
func (l *LUN) WriteAt(ctx context.Context, p []byte, offset int64) error {
	return l.do(ctx, "write", &l.Writes, offset, int64(len(p)), func() error {
		_, err := l.file.WriteAt(p, offset)
		return err
	})
}

// Flush implements daemon.LUN.
func (l *LUN) Flush(ctx context.Context) error {
	return l.do(ctx, "flush", &l.Flushes, 0, 0, func() error { return nil })
}

// Unmap implements daemon.LUN.
func (l *LUN) Unmap(ctx context.Context, offset, length int64) error {
	return l.do(ctx, "unmap", &l.Unmaps, offset, length, func() error {
		return unix.Fallocate(int(l.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	})
}

// WriteZeroes implements daemon.LUN.
func (l *LUN) WriteZeroes(ctx context.Context, offset, length int64) error {
	return l.do(ctx, "zero", &l.Zeroes, offset, length, func() error {
		return unix.Fallocate(int(l.file.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	})
}

// SizeBytes implements daemon.LUN.
func (l *LUN) SizeBytes() int64 { return l.size.Load() }

// Refresh implements daemon.LUN.
func (l *LUN) Refresh(context.Context) (int64, error) {
	st, err := l.file.Stat()
	if err != nil {
		return 0, err
	}
	l.size.Store(st.Size())
	return st.Size(), nil
}

// Resized implements daemon.LUN.
func (l *LUN) Resized() <-chan struct{} { return l.resized }

// Close implements daemon.LUN.
func (l *LUN) Close(context.Context) error {
	l.store.mu.Lock()
	if l.store.luns[l.iqn] == l {
		delete(l.store.luns, l.iqn)
	}
	l.store.mu.Unlock()
	return l.file.Close()
}
