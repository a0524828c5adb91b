package stacksim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

// network carries connections between hosts. One lock guards all of it: nothing is done under it that can block.
type network struct {
	mu        sync.Mutex
	rng       *rand.Rand
	hosts     map[string]*host // by IP
	latency   [2]time.Duration // of one way, from the range [lo, hi)
	cut       map[way]bool
	connected int
}

// way is one direction between two hosts.
type way struct{ from, to *host }

// host is one machine, and the network's view of the process on it. One process runs on a host at a time.
type host struct {
	ip        string
	net       *network
	off       bool // no power: packets to it vanish
	frozen    bool // the process is stopped: the kernel answers for it, nothing is read or sent
	listeners map[string]*listener
	conns     map[*conn]struct{}
	proc      *process
}

// process is what opens connections; when it has died, nothing of it gets through any more.
type process struct {
	host *host
	dead bool
}

func newNetwork(rng *rand.Rand) *network {
	return &network{rng: rng, hosts: map[string]*host{}, cut: map[way]bool{}, latency: [2]time.Duration{50 * time.Microsecond, 300 * time.Microsecond}}
}

func (n *network) host(ip string) *host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &host{ip: ip, net: n, listeners: map[string]*listener{}, conns: map[*conn]struct{}{}}
	n.hosts[ip] = h
	return h
}

// start begins a new process on a host.
func (h *host) start() *process {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	h.off, h.frozen = false, false
	h.proc = &process{host: h}
	// Whoever still waits for the last one learns now that it is gone.
	for c := range h.conns {
		c.resetLocked()
	}
	return h.proc
}

// stop ends the process. With power lost the others hear nothing until the host is started again; else the kernel resets its connections.
func (h *host) stop(powerLost bool) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.proc != nil {
		h.proc.dead = true
	}
	h.off = powerLost
	for _, l := range h.listeners {
		l.closeLocked()
	}
	for c := range h.conns {
		mine, theirs := c, c.peer
		if c.remote.host == h && c.local.host != h {
			mine, theirs = c.peer, c
		}
		mine.closed = true
		mine.in.wakeLocked()
		if !powerLost {
			theirs.in.addLocked(segment{err: syscall.ECONNRESET})
		}
	}
}

// freeze stops or continues the process.
func (h *host) freeze(on bool) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	h.frozen = on
	if on {
		return
	}
	now := time.Now()
	for c := range h.conns {
		for _, p := range []*pipe{c.in, c.peer.in} {
			for i := range p.queue {
				if s := &p.queue[i]; s.held && !p.from.frozen {
					s.held, s.at = false, p.after(now)
				}
			}
			p.wakeLocked()
		}
	}
	for _, l := range h.listeners {
		l.wakeLocked()
	}
}

// setCut makes packets of one direction vanish, or not any more. What was sent meanwhile is sent again, as TCP does.
func (n *network) setCut(from, to *host, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !on {
		delete(n.cut, way{from, to})
	} else {
		n.cut[way{from, to}] = true
		return
	}
	late := time.Now().Add(time.Duration(n.rng.Int64N(int64(400 * time.Millisecond))))
	for c := range to.conns {
		for _, p := range []*pipe{c.in, c.peer.in} {
			if p.from != from || p.to != to {
				continue
			}
			for i := range p.queue {
				if p.queue[i].at.Before(late) {
					p.queue[i].at = late
				}
			}
			p.last = late
			p.wakeLocked()
		}
	}
}

// resetSome breaks connections between two hosts.
func (n *network) resetSome(a, b *host) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range a.conns {
		if c.local.host == b || c.remote.host == b {
			c.resetLocked()
		}
	}
}

// segment is what one write sent, or the end of the stream.
type segment struct {
	data []byte
	err  error // io.EOF, or what breaks the connection
	at   time.Time
	held bool // sent while the sender was frozen: not before it thaws
}

// pipe is one direction of a connection. It takes any amount: what real sockets hold back shows as memory here, which the run bounds.
type pipe struct {
	net      *network
	from, to *host
	queue    []segment
	last     time.Time // arrival of the newest segment
	wake     chan struct{}
}

func (p *pipe) wakeLocked() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// after is when something sent now arrives, not before what was sent before it.
func (p *pipe) after(now time.Time) time.Time {
	lo, hi := p.net.latency[0], p.net.latency[1]
	at := now.Add(lo + time.Duration(p.net.rng.Int64N(int64(hi-lo))))
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	return at
}

func (p *pipe) addLocked(s segment) {
	s.at, s.held = p.after(time.Now()), p.from.frozen
	p.queue = append(p.queue, s)
	p.wakeLocked()
}

// blocked reports whether nothing arrives now, however old it is.
func (p *pipe) blocked() bool {
	return p.to.frozen || p.from.off || p.net.cut[way{p.from, p.to}]
}

// endpoint is an address with the host it is at.
type endpoint struct {
	host *host
	addr string
}

// Network and String implement net.Addr.
func (e endpoint) Network() string { return "tcp" }
func (e endpoint) String() string  { return e.addr }

// dial opens a connection from a process.
func (p *process) dial(ctx context.Context, address string) (net.Conn, error) {
	n := p.host.net
	ip, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: endpoint{addr: address}, Err: err}
	}
	for {
		n.mu.Lock()
		to := n.hosts[ip]
		switch {
		case p.dead:
			n.mu.Unlock()
			return fail(syscall.ENETDOWN)
		case to == nil:
			n.mu.Unlock()
			return fail(syscall.EHOSTUNREACH)
		case p.host.frozen || to.off || n.cut[way{p.host, to}] || n.cut[way{to, p.host}]:
			n.mu.Unlock()
			// The first packet is lost; it is sent again after a while.
			if err := pause(ctx, 300*time.Millisecond); err != nil {
				return fail(err)
			}
			continue
		}
		d := 2 * n.latency[0]
		n.mu.Unlock()
		if err := pause(ctx, d); err != nil {
			return fail(err)
		}
		n.mu.Lock()
		l := to.listeners[address]
		if l == nil || p.dead {
			n.mu.Unlock()
			return fail(syscall.ECONNREFUSED)
		}
		n.connected++
		a := endpoint{p.host, fmt.Sprintf("%s:%d", p.host.ip, 20000+n.connected)}
		b := endpoint{to, address}
		mine := &conn{net: n, local: a, remote: b, in: &pipe{net: n, from: to, to: p.host, wake: make(chan struct{}, 1)}}
		theirs := &conn{net: n, local: b, remote: a, in: &pipe{net: n, from: p.host, to: to, wake: make(chan struct{}, 1)}}
		mine.peer, theirs.peer = theirs, mine
		p.host.conns[mine] = struct{}{}
		to.conns[theirs] = struct{}{}
		l.queue = append(l.queue, theirs)
		l.wakeLocked()
		n.mu.Unlock()
		return mine, nil
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// listener accepts connections of one address.
type listener struct {
	at     endpoint
	queue  []*conn
	wake   chan struct{}
	closed bool
}

// listen opens a port for a process.
func (p *process) listen(address string) (net.Listener, error) {
	n := p.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	fail := func(err error) (net.Listener, error) {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Addr: endpoint{addr: address}, Err: err}
	}
	if ip, _, err := net.SplitHostPort(address); err != nil || ip != p.host.ip {
		return fail(syscall.EADDRNOTAVAIL)
	}
	if p.dead {
		return fail(syscall.ENETDOWN)
	}
	if p.host.listeners[address] != nil {
		return fail(syscall.EADDRINUSE)
	}
	l := &listener{at: endpoint{p.host, address}, wake: make(chan struct{}, 1)}
	p.host.listeners[address] = l
	return l, nil
}

func (l *listener) wakeLocked() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	n := l.at.host.net
	for {
		n.mu.Lock()
		if l.closed {
			n.mu.Unlock()
			return nil, net.ErrClosed
		}
		if len(l.queue) > 0 && !l.at.host.frozen {
			c := l.queue[0]
			l.queue = l.queue[1:]
			n.mu.Unlock()
			return c, nil
		}
		n.mu.Unlock()
		<-l.wake
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	n := l.at.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	l.closeLocked()
	return nil
}

func (l *listener) closeLocked() {
	if l.closed {
		return
	}
	l.closed = true
	if h := l.at.host; h.listeners[l.at.addr] == l {
		delete(h.listeners, l.at.addr)
	}
	for _, c := range l.queue {
		c.peer.in.addLocked(segment{err: syscall.ECONNRESET})
	}
	l.wakeLocked()
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.at }
