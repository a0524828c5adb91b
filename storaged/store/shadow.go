package store

import "iter"

// What a destage cycle needs for a moment is kept for the next one: a cycle of writes that are spread over thousands of extents takes tens of megabytes, and
// memory that goes back to the collector each time makes the heap grow, page by page that the kernel has to clear.

// shadowLayer is a layer as the checkpoint will have it.
type shadowLayer struct {
	layer       *layer
	nodes       [nodesPerExtent]*node
	mapped, own int64
	prev, next  *layer // neighbours in the replica, as of the seal
	reshaped    bool
	planned     bool
}

// dir is the layer for the directory: as planned, or as it was if the cycle leaves it alone.
func (l *layer) dir() dirLayer {
	x := dirLayer{handle: l.handle, seq: l.seq, mapped: uint32(l.mapped), own: uint32(l.own)}
	nodes := &l.nodes
	if sh := l.shadow; sh != nil {
		x.mapped, x.own, nodes = uint32(sh.mapped), uint32(sh.own), &sh.nodes
	}
	for k, n := range nodes {
		if n != nil {
			x.nodes[k] = slotRef{n.disk, n.sum}
		}
	}
	return x
}

const (
	shadowSlab  = 256
	shadowSlabs = 64 // kept for the next cycle: 2 MiB
)

// shadows holds the shadow layers of a cycle.
type shadows struct {
	slabs []*[shadowSlab]shadowLayer
	n     int
}

// of returns the shadow of a layer, which begins as the layer is.
func (s *shadows) of(l *layer) *shadowLayer {
	if l.shadow != nil {
		return l.shadow
	}
	if s.n == len(s.slabs)*shadowSlab {
		s.slabs = append(s.slabs, new([shadowSlab]shadowLayer))
	}
	sh := &s.slabs[s.n/shadowSlab][s.n%shadowSlab]
	s.n++
	*sh = shadowLayer{layer: l, nodes: l.nodes, mapped: l.mapped, own: l.own}
	l.shadow = sh
	return sh
}

// all are the shadows in the order in which they were made.
func (s *shadows) all() iter.Seq[*shadowLayer] {
	return func(yield func(*shadowLayer) bool) {
		for i := range s.n {
			if !yield(&s.slabs[i/shadowSlab][i%shadowSlab]) {
				return
			}
		}
	}
}

// forget ends the cycle: no layer has a shadow.
func (s *shadows) forget() {
	for sh := range s.all() {
		sh.layer.shadow = nil
		*sh = shadowLayer{}
	}
	s.n = 0
	if len(s.slabs) > shadowSlabs {
		clear(s.slabs[shadowSlabs:])
		s.slabs = s.slabs[:shadowSlabs]
	}
}

// sparesMax bounds the nodes kept for the next cycle: 10 MiB.
const sparesMax = 4096

// spareNodes keeps nodes that no layer uses any more. What a cycle replaces is seen by readers until the checkpoint is installed.
type spareNodes struct {
	free []*node
	gone []*node // replaced in this cycle
}

// copy returns a node that is equal to n, or empty for nil, that one layer uses and that is not on disk.
func (s *spareNodes) copy(n *node) *node {
	var c *node
	if k := len(s.free); k > 0 {
		c = s.free[k-1]
		s.free[k-1] = nil
		s.free = s.free[:k-1]
	} else {
		c = &node{}
	}
	if n == nil {
		n = &node{}
	}
	c.slot, c.crc, c.high, c.mask, c.disk, c.sum = n.slot, n.crc, n.high, n.mask, 0, 0
	c.refs.Store(1)
	return c
}

// replaced takes a node that no layer will use once the checkpoint is installed.
func (s *spareNodes) replaced(n *node) {
	if len(s.free)+len(s.gone) < sparesMax {
		s.gone = append(s.gone, n)
	}
}

// installed says that the checkpoint is installed: nobody sees what it replaced.
func (s *spareNodes) installed() {
	s.free = append(s.free, s.gone...)
	clear(s.gone)
	s.gone = s.gone[:0]
}

// dirScratch holds a directory while it is written.
type dirScratch struct {
	replicas []dirReplica
	layers   []dirLayer
	stream   []byte
}
