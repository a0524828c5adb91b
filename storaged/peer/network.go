package peer

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/timeouts"
	"github.com/iomesh/iomesh/storaged/wire"
)

// Handler receives what happens on connections. For one connection the calls come in the order Up, then Frame and Idle
// from its reader goroutine, then Down. Frame must not block: it holds up all that this peer sends.
type Handler interface {
	Up(c *Conn)
	// Frame owns f.Buf; f.Head is valid during the call only.
	Frame(c *Conn, f *wire.Frame)
	// Idle is called after Frame when the reader is about to wait, and before Down.
	Idle(c *Conn)
	Down(c *Conn, reason error)
}

// Secure performs the handshakes. leave is true when the payload shall not be encrypted: both sides then go on in plain
// text on the same connection, after the TLS handshake proved who they are.
type Secure interface {
	Client(ctx context.Context, raw net.Conn, leave bool) (net.Conn, error)
	Server(ctx context.Context, raw net.Conn, leave bool) (net.Conn, error)
}

// Options of a Network. All fields but Encrypt and Dial are required.
type Options struct {
	Cluster block.ClusterID
	Self    block.ChunkID
	Boot    uint64
	Secure  Secure
	// Encrypt keeps TLS for the payload too. Must be equal on all chunks.
	Encrypt bool
	// Dial opens connections to host:port; nil means TCP.
	Dial    func(ctx context.Context, address string) (net.Conn, error)
	Pool    *pagebuf.Pool
	Handler Handler
	Log     *slog.Logger
}

// Network holds all connections of a chunk. Safe for concurrent use.
type Network struct {
	opts   Options
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu       sync.Mutex
	links    map[block.ChunkID]*Link
	incoming map[*Conn]struct{}
	closed   bool
}

// New returns a Network without links. Close must be called.
func New(opts Options) *Network {
	ctx, cancel := context.WithCancel(context.Background())
	if opts.Dial == nil {
		opts.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "tcp", address)
		}
	}
	return &Network{opts: opts, ctx: ctx, cancel: cancel,
		links: map[block.ChunkID]*Link{}, incoming: map[*Conn]struct{}{}}
}

// Link is the outgoing side to one chunk.
type Link struct {
	Peer block.ChunkID

	net    *Network
	cancel context.CancelFunc

	mu    sync.Mutex
	addr  string
	conns [classes]*Conn
}

// Connect makes sure that there is a Link to a chunk at addr and keeps it connected until Disconnect. A changed address
// is used from the next attempt on.
func (n *Network) Connect(id block.ChunkID, addr string) *Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	if l := n.links[id]; l != nil {
		l.mu.Lock()
		l.addr = addr
		l.mu.Unlock()
		return l
	}
	ctx, cancel := context.WithCancel(n.ctx)
	l := &Link{Peer: id, net: n, cancel: cancel, addr: addr}
	n.links[id] = l
	if n.closed {
		cancel()
		return l
	}
	for c := range classes {
		n.wg.Go(func() { l.keep(ctx, c) })
	}
	return l
}

// Disconnect ends the Link to a chunk that has left the cluster.
func (n *Network) Disconnect(id block.ChunkID) {
	n.mu.Lock()
	l := n.links[id]
	delete(n.links, id)
	n.mu.Unlock()
	if l != nil {
		l.cancel()
	}
}

// Link returns the Link to a chunk, or nil.
func (n *Network) Link(id block.ChunkID) *Link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.links[id]
}

// Conn returns the established connection of a class, or nil.
func (l *Link) Conn(class Class) *Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conns[class]
}

// Drop closes the established connections of the Link, for the stated reason; they are opened anew at once. It is for a
// peer that does not answer: what is queued to it must not arrive late.
func (l *Link) Drop(reason error) {
	l.mu.Lock()
	conns := l.conns
	l.mu.Unlock()
	for _, c := range conns {
		if c != nil {
			c.Close(reason)
		}
	}
}

// keep dials until ctx ends, with a short pause between attempts: a peer that restarts should be found within a fraction
// of a second.
func (l *Link) keep(ctx context.Context, class Class) {
	var said string
	for ctx.Err() == nil {
		err := l.session(ctx, class)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			l.net.opts.Log.Info("no connection to chunk", "chunk", l.Peer, "class", class.String(), "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (l *Link) session(ctx context.Context, class Class) error {
	l.mu.Lock()
	addr := l.addr
	l.mu.Unlock()
	o := &l.net.opts
	hctx, cancel := context.WithTimeout(ctx, timeouts.Login)
	defer cancel()
	raw, err := o.Dial(hctx, addr)
	if err != nil {
		return fmt.Errorf("connect to chunk %s at %s: %w", l.Peer, addr, err)
	}
	stop := context.AfterFunc(hctx, func() { _ = raw.Close() })
	nc, err := o.Secure.Client(hctx, raw, !o.Encrypt)
	if err != nil {
		_ = raw.Close()
		return fmt.Errorf("handshake with chunk %s at %s: %w", l.Peer, addr, err)
	}
	self := Hello{Cluster: o.Cluster, Chunk: o.Self, Boot: o.Boot, Feature: block.FeatureLevel, Class: class, Encrypt: o.Encrypt, To: l.Peer}
	var h Hello
	if _, err = nc.Write(self.encode()); err == nil {
		h, err = readHello(nc)
	}
	if err == nil {
		err = h.check(self)
	}
	if !stop() && err == nil {
		err = hctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		return fmt.Errorf("hello with chunk %s at %s: %w", l.Peer, addr, err)
	}
	c := newConn(nc, h, class, true)
	defer context.AfterFunc(ctx, func() { c.Close(context.Cause(ctx)) })()
	l.mu.Lock()
	l.conns[class] = c
	l.mu.Unlock()
	l.net.run(c)
	l.mu.Lock()
	l.conns[class] = nil
	l.mu.Unlock()
	return c.Err()
}

// run performs the life of an established connection and returns when it is over.
func (n *Network) run(c *Conn) {
	if tc, ok := c.nc.(*net.TCPConn); ok {
		_ = tc.SetNoDelay(true)
	}
	n.opts.Handler.Up(c)
	var wg sync.WaitGroup
	wg.Go(c.writeLoop)
	r := wire.NewReader(c.nc, n.opts.Pool)
	// What comes in answer to us has been verified by who reads it from a disk; what we are asked to store is verified here.
	r.Sums = !c.Outgoing
	c.readLoop(r, n.opts.Handler)
	wg.Wait()
	n.opts.Handler.Down(c, c.Err())
}

// Serve accepts connections of other chunks until the Network is closed or ln fails; it closes ln.
func (n *Network) Serve(ln net.Listener) error {
	stop := context.AfterFunc(n.ctx, func() { _ = ln.Close() })
	defer stop()
	for {
		raw, err := ln.Accept()
		if err != nil {
			if n.ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept chunk connections on %s: %w", ln.Addr(), err)
		}
		n.wg.Go(func() { n.accept(raw) })
	}
}

func (n *Network) accept(raw net.Conn) {
	o := &n.opts
	hctx, cancel := context.WithTimeout(n.ctx, timeouts.Login)
	defer cancel()
	stop := context.AfterFunc(hctx, func() { _ = raw.Close() })
	nc, err := o.Secure.Server(hctx, raw, !o.Encrypt)
	if err != nil {
		_ = raw.Close()
		o.Log.Warn("refused a connection to the chunk port", "from", raw.RemoteAddr().String(), "err", err)
		return
	}
	h, err := readHello(nc)
	if err == nil {
		self := Hello{Cluster: o.Cluster, Chunk: o.Self, Boot: o.Boot, Feature: block.FeatureLevel, Class: h.Class, Encrypt: o.Encrypt, To: h.Chunk}
		// Answer before judging, so that the other side can say what does not fit.
		if _, err = nc.Write(self.encode()); err == nil {
			err = h.check(self)
		}
	}
	if !stop() && err == nil {
		err = hctx.Err()
	}
	if err != nil {
		_ = nc.Close()
		o.Log.Warn("refused a chunk", "from", raw.RemoteAddr().String(), "err", err)
		return
	}
	c := newConn(nc, h, h.Class, false)
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		_ = nc.Close()
		return
	}
	n.incoming[c] = struct{}{}
	n.mu.Unlock()
	n.run(c)
	n.mu.Lock()
	delete(n.incoming, c)
	n.mu.Unlock()
}

// Close ends all connections and returns when every goroutine of the Network has ended.
func (n *Network) Close() {
	n.mu.Lock()
	n.closed = true
	in := make([]*Conn, 0, len(n.incoming))
	for c := range n.incoming {
		in = append(in, c)
	}
	n.mu.Unlock()
	n.cancel()
	for _, c := range in {
		c.Close(net.ErrClosed)
	}
	n.wg.Wait()
}
