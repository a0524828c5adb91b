package store

import (
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
)

// replica is one extent on this disk. Guarded by Store.mu. What each read and write looks at comes first, and the layer right after it: of extents that
// are used seldom nothing is in the processor's caches, and each place looked at costs as much as a hundred instructions.
type replica struct {
	// layers by ascending seq; the last is the live layer. Without snapshots it lies in first, and is own.
	layers []*layer
	first  [1]*layer
	// kin counts the layers of its family; valid while it has a layer itself. It is the ownKin of one of the family.
	kin        *int
	ownKin     int
	seeder     block.Seeder
	handle     uint32
	epoch      block.Epoch // highest seen in a write; for people and for page headers
	generation block.Generation
	watermark  uint64
	highest    uint64
	joining    bool
	suspect    bool
	removed    bool // not in Store.replicas any more
	dirty      bool // in Store.dirty
	reshaped   bool // layers changed since the last seal
	own        layer
	joinStart  uint64
	id         block.ExtentID
	lineage    block.VolumeID
	// base is layers as of the last seal: what the checkpoint knows. The destager's between seals.
	base    []*layer
	baseTag replicaTag // likewise
	// nextUnit is where the next large write looks for space first, so that an extent stays together. The committer's.
	nextUnit uint32
}

// replicaTag is what slots tell of the replica they were written for (I13).
type replicaTag struct {
	epoch      block.Epoch
	generation block.Generation
}

// layer is the content of a replica as of a snapshot sequence, flat: it finds every block without asking an older layer.
// Guarded by Store.mu.
type layer struct {
	// active and sealed hold what is in the journal.
	active, sealed *overlay
	// inherit is the layer this one begins with the content of, until the destager has made both share pages.
	inherit *layer
	rep     *replica // the replica it belongs or belonged to
	// max is an upper bound of the stamps in the layer.
	max    uint64
	handle uint32
	seq    block.SnapSeq
	// nodes is the page table; nil entries have no page with a stamp. Invariant: nodes and all below never change
	// while the destager works; it replaces them at the end of a checkpoint.
	nodes [nodesPerExtent]*node
	// clones counts layers of other replicas that inherit from this one.
	clones int
	dead   bool

	shadow *shadowLayer // the layer as the checkpoint under way will have it, nil if it stays as it is; the destager's

	mapped int64 // units pointed to, as of the checkpoint
	own    int64 // of those, units that the next newer layer of the replica does not have in the same place
}

func (r *replica) live() *layer {
	if len(r.layers) == 0 {
		return nil
	}
	return r.layers[len(r.layers)-1]
}

// view returns the layer that has the content as of v, or nil if nothing was written by then.
func (r *replica) view(v block.SnapSeq) *layer {
	for i := len(r.layers) - 1; i >= 0; i-- {
		if r.layers[i].seq <= v {
			return r.layers[i]
		}
	}
	return nil
}

// find returns where the layer of seq is or would be, and whether it is there. It is nearly always the live one.
func (r *replica) find(seq block.SnapSeq) (int, bool) {
	if l := r.live(); l != nil && l.seq == seq {
		return len(r.layers) - 1, true
	}
	return slices.BinarySearchFunc(r.layers, seq, func(l *layer, s block.SnapSeq) int {
		switch {
		case l.seq < s:
			return -1
		case l.seq > s:
			return 1
		}
		return 0
	})
}

// replicaOf is the replica w is for, nil if there is none; it is looked up once for a write. For whoever has the write in hand, with Store.mu held.
func (s *Store) replicaOf(w *Write) *replica {
	if w.q.replica == nil || w.q.replica.removed {
		w.q.replica = s.replicas[w.Extent]
	}
	return w.q.replica
}

// alone reports whether nothing else can share units with l, a layer of r; nil is a layer to be made, which can.
func (r *replica) alone(l *layer) bool { return l != nil && l.inherit == nil && *r.kin == 1 }

// layersOfKin counts the layers that may share units with those of r.
func (s *Store) layersOfKin(r *replica) int {
	if kin := s.families[r.family()]; kin != nil {
		return *kin
	}
	return 0
}

func (r *replica) family() family { return family{r.lineage, r.id.Index} }

// addReplica puts a new replica into the tables.
func (s *Store) addReplica(id block.ExtentID, handle uint32, lineage block.VolumeID) *replica {
	r := &replica{id: id, handle: handle, lineage: lineage, seeder: block.NewSeeder(lineage, id.Index)}
	if s.opts.planted == bugNoSeed {
		r.seeder = block.Seeder{}
	}
	r.layers = r.first[:0]
	s.replicas[id] = r
	s.nextHandle = max(s.nextHandle, handle+1)
	return r
}

// addLayer puts a new layer into a replica, sharing the content of from (nil: empty).
func (s *Store) addLayer(r *replica, handle uint32, seq block.SnapSeq, from *layer) *layer {
	l := &r.own
	if l.rep != nil { // it is or was in use
		l = &layer{}
	}
	l.handle, l.seq, l.rep, l.inherit = handle, seq, r, from
	if from != nil {
		l.max = from.max
		if from.rep != r {
			from.clones++
		}
	}
	i, _ := r.find(seq)
	r.layers = slices.Insert(r.layers, i, l)
	r.reshaped = true
	s.layers[handle] = l
	r.kin = s.families[r.family()]
	if r.kin == nil {
		r.kin = &r.ownKin
		s.families[r.family()] = r.kin
	}
	*r.kin++
	s.nextHandle = max(s.nextHandle, handle+1)
	return l
}

// bury takes a layer out of service; the destager frees its space.
func (s *Store) bury(l *layer) {
	l.dead = true
	l.rep.reshaped = true
	l.rep.layers = slices.DeleteFunc(l.rep.layers, func(o *layer) bool { return o == l })
	s.dead = append(s.dead, l)
}

func (s *Store) removeReplica(r *replica) {
	for len(r.layers) > 0 {
		s.bury(r.layers[len(r.layers)-1])
	}
	r.removed = true
	delete(s.replicas, r.id)
}
