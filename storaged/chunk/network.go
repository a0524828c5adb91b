package chunk

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/peer"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/wakes"
	"github.com/iomesh/iomesh/storaged/wire"
)

// routes finds the connection for a message. Questions go out on the connections this chunk opened, answers back on those the
// peer opened.
type routes struct {
	mu sync.RWMutex
	m  map[block.ChunkID]*route
}

type route struct {
	out, in [2]atomic.Pointer[peer.Conn]
}

func (r *routes) get(id block.ChunkID) *route {
	r.mu.RLock()
	x := r.m[id]
	r.mu.RUnlock()
	if x != nil {
		return x
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = map[block.ChunkID]*route{}
	}
	if x = r.m[id]; x == nil {
		x = &route{}
		r.m[id] = x
	}
	return x
}

// incoming is what the reader of a connection needs: the message that is dealt with, and who is woken when all that came together has been.
type incoming struct {
	msg   replication.Message
	later wakes.List
}

// isAnswer tells messages that go back to who asked.
func isAnswer(k replication.Kind) bool {
	switch k {
	case replication.MsgEpochPending, replication.MsgEpochTaken, replication.MsgWriteReply, replication.MsgReadReply, replication.MsgJoinReply,
		replication.MsgStamps, replication.MsgCopyReply, replication.MsgConfirmed, replication.MsgLeaseGrant:
		return true
	}
	return false
}

func classOf(k replication.Kind) peer.Class {
	switch k {
	case replication.MsgLeaseRequest, replication.MsgLeaseGrant, replication.MsgLeaseRelease:
		return peer.Control
	}
	return peer.Data
}

// send delivers a message to a chunk, this one included, or drops it if there is no connection. buf, if any, is what m.Data
// lies in; the caller keeps its reference. later as in package wakes.
func (s *Server) send(to block.ChunkID, m *replication.Message, buf *pagebuf.Buf, later *wakes.List) {
	if to == s.id {
		if buf != nil {
			buf.Retain()
		}
		s.deliver(to, m, buf, later)
		return
	}
	s.metrics.noteSend(to, m.Kind, s.now)
	r := s.routes.get(to)
	side := &r.out
	if isAnswer(m.Kind) {
		side = &r.in
	}
	c := side[classOf(m.Kind)].Load()
	if c == nil {
		return
	}
	data := m.Data
	if m.Kind == replication.MsgRead {
		data = nil
	}
	if len(data) == 0 {
		buf = nil
	} else if buf != nil {
		buf.Retain()
	}
	head := wire.AppendMessage(c.Head(), m)
	wire.SealFrame(head, wire.TypeMessage, 0, block.FeatureLevel, len(data))
	c.Send(head, data, buf, later)
}

// deliver hands a message to the machine it is for. It takes over one reference of buf.
func (s *Server) deliver(from block.ChunkID, m *replication.Message, buf *pagebuf.Buf, later *wakes.List) {
	if from != s.id {
		s.metrics.noteReceive(from, m.Kind, s.now)
	}
	switch {
	case m.Kind == replication.MsgLeaseRequest || m.Kind == replication.MsgLeaseGrant || m.Kind == replication.MsgLeaseRelease:
		s.leases.receive(from, m)
		buf.Release()
	case isAnswer(m.Kind):
		if v := s.volumes.get(m.Volume); v != nil {
			v.receive(from, m, buf, later)
		} else {
			buf.Release()
		}
	default:
		s.replicas.get(m.Volume).receive(from, m, buf, later)
		buf.Release()
	}
}

// Up implements peer.Handler.
func (s *Server) Up(c *peer.Conn) {
	c.Value = new(incoming)
	r := s.routes.get(c.Peer)
	if !c.Outgoing {
		r.in[c.Class].Store(c)
		return
	}
	r.out[c.Class].Store(c)
	if c.Class == peer.Control {
		s.leases.peer(c.Peer, true)
		s.alive.heard(c.Peer, s.now())
		return
	}
	s.log.Info("chunk connected", "chunk", c.Peer)
	s.peers.post(peerEvent{chunk: c.Peer, boot: c.Boot, up: true})
}

// Down implements peer.Handler.
func (s *Server) Down(c *peer.Conn, reason error) {
	r := s.routes.get(c.Peer)
	if !c.Outgoing {
		r.in[c.Class].CompareAndSwap(c, nil)
		return
	}
	r.out[c.Class].CompareAndSwap(c, nil)
	if c.Class == peer.Control {
		s.leases.peer(c.Peer, false)
		return
	}
	s.log.Info("chunk disconnected", "chunk", c.Peer, "reason", reason)
	s.peers.post(peerEvent{chunk: c.Peer, boot: c.Boot})
}

// Frame implements peer.Handler.
func (s *Server) Frame(c *peer.Conn, f *wire.Frame) {
	in := c.Value.(*incoming)
	m := &in.msg
	if c.Outgoing {
		// An owner may keep the sums of an answer.
		m.Sums = nil
	}
	if err := wire.DecodeMessage(f, m); err != nil {
		f.Buf.Release()
		c.Close(fmt.Errorf("message of chunk %s: %w", c.Peer, err))
		return
	}
	if isAnswer(m.Kind) != c.Outgoing {
		f.Buf.Release()
		c.Close(fmt.Errorf("message kind %d of chunk %s on the wrong side of a connection", m.Kind, c.Peer))
		return
	}
	if c.Outgoing && c.Class == peer.Control {
		s.alive.heard(c.Peer, s.now())
	}
	s.deliver(c.Peer, m, f.Buf, &in.later)
}

// Idle implements peer.Handler.
func (s *Server) Idle(c *peer.Conn) { c.Value.(*incoming).later.Wake() }
