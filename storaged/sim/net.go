package sim

import (
	"github.com/iomesh/iomesh/storaged/replication"
)

// envelope is a message on its way.
type envelope struct {
	msg      replication.Message
	from, to int
	gen      int
	late     bool
}

// network joins every two chunks by a pair of pooled connections that live and die together. Within one direction of one of
// them order is kept; between the two it is not. Bytes of connections that have died may still be delivered late.
type network struct {
	w     *World
	links [][]*link // [a][b] with a < b
	cut   [][]bool  // [from][to]
	lanes [][][2]int64
	held  [][][]*envelope // [from][to]: in socket buffers while the direction is cut
}

type link struct {
	a, b  int
	gen   int
	up    bool
	known [2]int // generation each end believes to be up, 0 if none; [0] is a's
	told  [2]int64
}

func (n *network) init(w *World, chunks int) {
	n.w = w
	for a := range chunks {
		n.links = append(n.links, make([]*link, chunks))
		n.cut = append(n.cut, make([]bool, chunks))
		n.lanes = append(n.lanes, make([][2]int64, chunks))
		n.held = append(n.held, make([][]*envelope, chunks))
		for b := a + 1; b < chunks; b++ {
			n.links[a][b] = &link{a: a, b: b}
		}
	}
}

func (n *network) link(a, b int) *link {
	if a > b {
		a, b = b, a
	}
	return n.links[a][b]
}

func (l *link) end(c int) int {
	if c == l.a {
		return 0
	}
	return 1
}

// send puts a message on a connection the sender believes to be up; without one it is gone.
func (n *network) send(from, to int, m *replication.Message) {
	w := n.w
	l := n.link(from, to)
	gen := l.known[l.end(from)]
	if gen == 0 {
		return
	}
	var e *envelope
	if k := len(w.freeEnv); k > 0 {
		e, w.freeEnv = w.freeEnv[k-1], w.freeEnv[:k-1]
	} else {
		e = &envelope{}
	}
	*e = envelope{msg: *m, from: from, to: to, gen: gen}
	if n.cut[from][to] {
		n.held[from][to] = append(n.held[from][to], e)
		return
	}
	n.fly(e)
}

func (n *network) fly(e *envelope) {
	w := n.w
	d := w.between(w.cfg.Net/8, w.cfg.Net)
	if w.chance(3) {
		d = w.between(w.cfg.Net, 8*w.cfg.Net+20*ms)
	}
	lane := &n.lanes[e.from][e.to][w.rng.IntN(2)]
	*lane = max(*lane+1, w.now+d)
	c := w.chunks[e.to]
	w.push(event{at: *lane, kind: evDeliver, chunk: c, inc: c.inc, env: e})
}

// deliver hands a message to its chunk, unless its connection has died.
func (w *World) deliver(ev event) {
	e, c := ev.env, ev.chunk
	if e.from != e.to {
		l := w.net.link(e.from, e.to)
		if e.gen != l.gen && !e.late {
			if w.chance(40) {
				e.late = true
				w.push(event{at: w.now + w.between(0, 3*sec), kind: evDeliver, chunk: c, inc: ev.inc, env: e})
				return
			}
			w.freeEnv = append(w.freeEnv, e)
			return
		}
		if end := l.end(e.to); l.up && e.gen == l.gen && l.known[end] != l.gen {
			// A message can be there before the notice that the connections are.
			if l.known[end] != 0 {
				c.peerDown(w.chunks[e.from])
			}
			l.known[end] = l.gen
			c.peerUp(w.chunks[e.from])
		}
	}
	c.receive(w.chunks[e.from], &e.msg)
	w.freeEnv = append(w.freeEnv, e)
}

// connect tries to make the connections of a pair, again and again until it succeeds.
func (n *network) connect(l *link) {
	w := n.w
	a, b := w.chunks[l.a], w.chunks[l.b]
	if l.up {
		return
	}
	if !a.alive || !b.alive || a.frozenTill > w.now || b.frozenTill > w.now || n.cut[l.a][l.b] || n.cut[l.b][l.a] {
		w.after(w.between(50*ms, 150*ms), func() { n.connect(l) })
		return
	}
	l.gen++
	l.up = true
	n.tell(l, a, b, true)
	n.tell(l, b, a, true)
}

// tell lets one end notice that the link is up or down, in order.
func (n *network) tell(l *link, c, other *chunk, up bool) {
	w := n.w
	end := l.end(c.index)
	gen := l.gen
	at := max(w.now+w.between(0, 4*ms), l.told[end]+1)
	l.told[end] = at
	w.push(event{at: at, chunk: c, inc: c.inc, fn: func() {
		if up {
			if l.gen != gen || !l.up || l.known[end] == gen {
				return
			}
			l.known[end] = gen
			c.peerUp(other)
		} else if l.known[end] != 0 && l.known[end] < gen {
			l.known[end] = 0
			c.peerDown(other)
		}
	}})
}

// drop breaks the connections of a pair.
func (n *network) drop(l *link) {
	if !l.up {
		return
	}
	w := n.w
	l.up = false
	l.gen++
	n.tell(l, w.chunks[l.a], w.chunks[l.b], false)
	n.tell(l, w.chunks[l.b], w.chunks[l.a], false)
	w.after(w.between(5*ms, 200*ms), func() { n.connect(l) })
}

// processEnded forgets what the dead process knew; its peers learn of it after d.
func (n *network) processEnded(c *chunk, d int64) {
	w := n.w
	for i := range w.chunks {
		if i == c.index {
			continue
		}
		l := n.link(c.index, i)
		l.known[l.end(c.index)] = 0
		l.told[l.end(c.index)] = 0
		if l.up {
			gen := l.gen
			w.after(w.between(0, d), func() {
				if l.gen == gen {
					n.drop(l)
				}
			})
		}
		w.freeEnv = append(w.freeEnv, n.held[i][c.index]...)
		n.held[i][c.index] = nil
	}
}

// setCut cuts or heals one direction. While it is cut messages stay in the sender's buffers; after a while the ends give up.
func (n *network) setCut(from, to int, cut bool) {
	w := n.w
	if n.cut[from][to] == cut {
		return
	}
	n.cut[from][to] = cut
	l := n.link(from, to)
	if cut {
		gen := l.gen
		w.after(w.between(500*ms, 4*sec), func() {
			if n.cut[from][to] && l.gen == gen {
				n.drop(l)
			}
		})
		return
	}
	held := n.held[from][to]
	n.held[from][to] = nil
	for _, e := range held {
		n.fly(e)
	}
}
