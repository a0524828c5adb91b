package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Server serves iSCSI connections. All methods may be called concurrently.
type Server struct {
	opt Options

	bytes    atomic.Int64 // data buffers of all sessions
	refused  atomic.Uint64
	failed   atomic.Uint64
	lastTSIH atomic.Uint32
	serials  atomic.Uint64
	tasks    sync.Pool // *task; what volumes keep with them is theirs, so no other server may have it

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	conns     map[net.Conn]struct{}
	logins    map[*loginAttempt]struct{}
	sessions  map[*session]struct{} // established, discovery included
	changes   uint64                // of sessions
	devices   map[string]*device    // by IQN
	stop      chan struct{}
	wg        sync.WaitGroup
}

// New returns a Server without listeners.
func New(o Options) (*Server, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		opt:       o,
		listeners: map[net.Listener]struct{}{},
		conns:     map[net.Conn]struct{}{},
		logins:    map[*loginAttempt]struct{}{},
		sessions:  map[*session]struct{}{},
		devices:   map[string]*device{},
		stop:      make(chan struct{}),
	}
	s.tasks.New = newTask
	s.wg.Add(1)
	go s.pinger()
	return s, nil
}

// ErrClosed is returned by Serve after Close.
var ErrClosed = errors.New("iSCSI target is closed")

// Serve accepts connections of a listener until it fails or the Server is closed. It closes the listener.
func (s *Server) Serve(l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			s.mu.Lock()
			closed := s.closed
			s.mu.Unlock()
			if closed {
				return ErrClosed
			}
			if passing(err) {
				// Out of descriptors or an aborted connection: the next may do.
				select {
				case <-s.stop:
					return ErrClosed
				case <-time.After(20 * time.Millisecond):
				}
				continue
			}
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		s.mu.Lock()
		if s.closed || len(s.conns) >= s.opt.ConnectionsMax || len(s.logins) >= s.opt.LoginsMax {
			s.mu.Unlock()
			s.refused.Add(1)
			c.Close()
			continue
		}
		a := s.newLogin(c)
		s.conns[c] = struct{}{}
		s.logins[a] = struct{}{}
		s.wg.Add(1)
		s.mu.Unlock()
		go func() {
			defer s.wg.Done()
			s.connection(a)
			c.Close()
			s.mu.Lock()
			delete(s.conns, c)
			s.mu.Unlock()
		}()
	}
}

func passing(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED, unix.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Close ends all sessions at once, waits for the commands in progress and returns when no goroutine is left.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		s.wg.Wait()
		return nil
	}
	s.closed = true
	close(s.stop)
	for l := range s.listeners {
		l.Close()
	}
	for a := range s.logins {
		a.cancel()
	}
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
	return nil
}

// Resized tells the sessions of a target that its volume has a new size: they get the unit attention CAPACITY DATA HAS CHANGED.
func (s *Server) Resized(iqn string) {
	for _, x := range s.sessionsOf(iqn, "") {
		x.attention(codeCapacityChanged)
	}
}

// CloseSessions ends the sessions and logins of an initiator at a target and returns how many sessions there were, when the commands
// they had in progress are completed (I14, I16). An empty initiator means all. The caller has made Lookup refuse them before.
func (s *Server) CloseSessions(ctx context.Context, iqn, initiator string) (int, error) {
	s.cancelLogins(iqn, initiator)
	list := s.sessionsOf(iqn, initiator)
	for _, x := range list {
		x.close("grant withdrawn")
	}
	if s.opt.planted == plantEarlyClose {
		return len(list), nil
	}
	for _, x := range list {
		if err := x.awaitEnd(ctx); err != nil {
			return len(list), fmt.Errorf("close sessions of %s at %s: %w", initiator, iqn, err)
		}
	}
	return len(list), nil
}

// Reason says why a volume leaves this server.
type Reason uint8

// Reasons.
const (
	// VolumeLost: another owner may exist already; connections are dropped at once.
	VolumeLost Reason = iota
	// VolumeMoved: a planned move; initiators are asked to log out and have Options.MoveGrace for it.
	VolumeMoved
)

// CloseVolume ends all sessions of a target and forgets its volume. It returns when the commands in progress are completed. The
// caller has made Lookup answer otherwise before.
func (s *Server) CloseVolume(ctx context.Context, iqn string, why Reason) error {
	s.cancelLogins(iqn, "")
	list := s.sessionsOf(iqn, "")
	if why == VolumeMoved && len(list) > 0 {
		for _, x := range list {
			x.requestLogout()
		}
		grace, cancel := context.WithTimeout(ctx, s.opt.MoveGrace)
		for _, x := range list {
			if x.awaitEnd(grace) != nil {
				break
			}
		}
		cancel()
	}
	for _, x := range list {
		x.close("volume leaves this node")
	}
	for _, x := range list {
		if err := x.awaitEnd(ctx); err != nil {
			return fmt.Errorf("close volume of %s: %w", iqn, err)
		}
	}
	s.mu.Lock()
	if d := s.devices[iqn]; d != nil && len(d.sessions) == 0 {
		delete(s.devices, iqn)
	}
	s.mu.Unlock()
	return nil
}

// Sessions lists the sessions of a target, or of all if iqn is empty.
func (s *Server) Sessions(iqn string) []SessionInfo {
	var out []SessionInfo
	var list []*session
	s.mu.Lock()
	if d := s.devices[iqn]; d != nil {
		for x := range d.sessions {
			list = append(list, x)
		}
	} else if iqn == "" {
		for x := range s.sessions {
			if x.dev != nil {
				list = append(list, x)
			}
		}
	}
	s.mu.Unlock()
	for _, x := range list {
		out = append(out, x.info())
	}
	return out
}

// Brief returns the numbers of sessions and of refused logins, and a number that changes whenever a session begins or ends.
func (s *Server) Brief() (sessions int, failedLogins, changes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sessions), s.failed.Load(), s.changes
}

// Totals returns the numbers of the whole server.
func (s *Server) Totals() Totals {
	t := Totals{RefusedConnections: s.refused.Load(), FailedLogins: s.failed.Load(), DataBytes: s.bytes.Load(),
		PerTarget: map[string]Counters{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Connections, t.Logins, t.Sessions = len(s.conns), len(s.logins), len(s.sessions)
	for iqn, d := range s.devices {
		c := d.past
		for x := range d.sessions {
			c.add(x.stats.value())
		}
		t.PerTarget[iqn] = c
	}
	return t
}

func (s *Server) sessionsOf(iqn, initiator string) []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.devices[iqn]
	if d == nil {
		return nil
	}
	var list []*session
	for x := range d.sessions {
		if initiator == "" || x.nexus.Initiator == initiator {
			list = append(list, x)
		}
	}
	return list
}

func (s *Server) cancelLogins(iqn, initiator string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := range s.logins {
		if a.names.Target == iqn && (initiator == "" || a.names.Initiator == initiator) {
			a.revoked = true
			a.cancel()
		}
	}
}

// pinger looks after silent initiators.
func (s *Server) pinger() {
	defer s.wg.Done()
	tick := time.NewTicker(s.opt.NOPInterval / 2)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case now := <-tick.C:
			s.mu.Lock()
			list := make([]*session, 0, len(s.sessions))
			for x := range s.sessions {
				list = append(list, x)
			}
			s.mu.Unlock()
			for _, x := range list {
				x.checkAlive(now)
			}
		}
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}
