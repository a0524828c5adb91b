package store

import (
	"errors"
	"fmt"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// reclaim frees the space of deleted layers, a bounded number of pages per cycle.
func (d *destager) reclaim() error {
	budget := reclaimPages
	for _, l := range d.st.dead {
		sh := d.layer(l)
		if l.inherit != nil && !sh.planned {
			// It never got pages of its own.
			sh.nodes = [nodesPerExtent]*node{}
		}
		for k, n := range sh.nodes {
			if n == nil {
				continue
			}
			if budget <= 0 {
				return nil
			}
			used, err := d.dropNode(l, n, uint32(k))
			if err != nil {
				return err
			}
			budget -= used
			sh.nodes[k] = nil
		}
		sh.mapped, sh.own = 0, 0
		d.drained = append(d.drained, l)
	}
	return nil
}

// dropNode takes a layer off a node; the last one frees its pages. It returns how many pages it had to read.
func (d *destager) dropNode(l *layer, n *node, k uint32) (int, error) {
	if n.refs.Add(-1) > 0 {
		return 0, nil
	}
	s := d.s
	used := 0
	for j, slot := range n.slot {
		if slot == 0 || slot == slotLost {
			continue
		}
		s.alloc.mu.Lock()
		s.alloc.slotRef[slot]--
		last := s.alloc.slotRef[slot] == 0
		s.alloc.mu.Unlock()
		if !last {
			continue
		}
		if err := d.loadInto(&d.pg, l, n, k*nodePages+uint32(j)); err != nil {
			return used, err
		}
		used++
		for _, p := range d.pg.phys {
			if p != 0 {
				d.deref(p - 1)
			}
		}
		d.slots = append(d.slots, slot)
	}
	if n.disk != 0 {
		d.slots = append(d.slots, n.disk)
	}
	d.nodes.replaced(n)
	return used, nil
}

// checkpoint writes the tree and, when all of it and all moved data is durable, the root.
func (d *destager) checkpoint() error {
	s := d.s
	if err := d.unpin(); err != nil {
		return err
	}
	if s.opts.planted == bugReuseEarly {
		d.giveBack()
		s.alloc.slots.next = 0
	}
	for sh := range d.shadow.all() {
		l := sh.layer
		for k, n := range sh.nodes {
			if n == nil || n.disk != 0 {
				continue
			}
			slot, ok := s.alloc.allocSlot()
			if !ok {
				return fmt.Errorf("%w: no slot for a table node", ErrNoSpace)
			}
			p, err := d.out.next(slot)
			if err != nil {
				return err
			}
			n.encode(p, &slotHeader{
				checkpoint: d.st.root.checkpoint, volume: l.rep.id.Volume, index: l.rep.id.Index, number: uint32(k),
				epoch: l.rep.baseTag.epoch, generation: l.rep.baseTag.generation, link: l.handle,
			})
			n.disk, n.sum = slot, slotCRC(p)
		}
	}
	if err := d.writeRefs(); err != nil {
		return err
	}
	if err := d.writeDirectory(); err != nil {
		return err
	}
	if err := d.out.flush(); err != nil {
		return err
	}
	if s.opts.planted == bugRootFirst {
		return errors.Join(writeRoot(s.disk, &s.sb, &d.st.root), s.disk.Flush())
	}
	mark := s.io.begin(ioFlush)
	err := s.disk.Flush()
	s.io.end(mark)
	if err != nil {
		return err
	}
	return writeRoot(s.disk, &s.sb, &d.st.root)
}

// writeRoot writes both copies of a root and returns when they are durable.
func writeRoot(disk vdisk.Disk, sb *superblock, r *root) error {
	p := vdisk.Aligned(slotBytes)
	r.encode(p, sb.DiskID)
	for _, off := range sb.geo.rootOffs(r.checkpoint) {
		if err := disk.WriteDurable(p, off); err != nil {
			return fmt.Errorf("checkpoint root: %w", err)
		}
	}
	return nil
}

// writeRefs writes the refcount pages that have changed.
func (d *destager) writeRefs() error {
	s := d.s
	for k := range s.refSlots {
		if d.refs[k/64]>>(k%64)&1 == 0 {
			continue
		}
		if old := s.refSlots[k].slot; old != 0 {
			d.slots = append(d.slots, old)
		}
		lo := k * refsPerPage
		refs := s.alloc.unitRef[lo:min(lo+refsPerPage, len(s.alloc.unitRef))]
		if !slices.ContainsFunc(refs, func(r uint16) bool { return r != 0 }) {
			s.refSlots[k] = slotRef{}
			continue
		}
		slot, ok := s.alloc.allocSlot()
		if !ok {
			return fmt.Errorf("%w: no slot for reference counts", ErrNoSpace)
		}
		p, err := d.out.next(slot)
		if err != nil {
			return err
		}
		encodeRefs(p, &slotHeader{checkpoint: d.st.root.checkpoint, number: uint32(k)}, refs)
		s.refSlots[k] = slotRef{slot, slotCRC(p)}
	}
	return nil
}

// writeDirectory writes the directory into fresh slots, chained, twice, and the places into the root. Everything else can be lost in part and be
// brought back by other replicas; without the directory the whole disk would be lost.
func (d *destager) writeDirectory() error {
	s := d.s
	dir := directory{refs: s.refSlots, fences: d.st.fences, replicas: d.dir.replicas[:0]}
	layers := d.dir.layers[:0]
	for _, x := range d.st.replicas {
		first := len(layers)
		for _, l := range x.r.base {
			layers = append(layers, l.dir())
		}
		x.dir.layers = layers[first:]
		dir.replicas = append(dir.replicas, x.dir)
	}
	for _, l := range d.st.dead {
		if !slices.Contains(d.drained, l) {
			dir.dead = append(dir.dead, dirDead{l.rep.lineage, l.rep.id.Index, l.dir()})
		}
	}
	p := dir.append(d.dir.stream[:0])
	d.dir = dirScratch{dir.replicas, layers, p}
	d.st.root.dirBytes, d.st.root.dirCRC = uint32(len(p)), block.CRC32C(p)
	for _, first := range []*uint32{&d.st.root.dirSlot, &d.st.root.dirCopy} {
		if err := d.writeChain(p, first); err != nil {
			return err
		}
	}
	d.slots = append(d.slots, s.dirSlots...)
	return nil
}

// writeChain writes one copy of the directory.
func (d *destager) writeChain(p []byte, first *uint32) error {
	n := (len(p) + dirSlotBytes - 1) / dirSlotBytes
	base := len(d.dirNew)
	for range n {
		slot, ok := d.s.alloc.allocSlot()
		if !ok {
			return fmt.Errorf("%w: no slot for the directory", ErrNoSpace)
		}
		d.dirNew = append(d.dirNew, slot)
	}
	chain := d.dirNew[base:]
	*first = chain[0]
	for i, slot := range chain {
		q, err := d.out.next(slot)
		if err != nil {
			return err
		}
		part := p[i*dirSlotBytes : min((i+1)*dirSlotBytes, len(p))]
		h := slotHeader{kind: kindDir, checkpoint: d.st.root.checkpoint, number: uint32(i), used: uint32(len(part))}
		if i+1 < n {
			h.link = chain[i+1]
		}
		h.encode(q)
		clear(q[slotHeaderBytes+copy(q[slotHeaderBytes:], part) : slotBytes])
		seal(q)
	}
	return nil
}

// install makes the durable checkpoint what readers and the committer see, and gives back the space it freed.
func (d *destager) install() {
	s := d.s
	slices.Sort(d.units)
	d.units = slices.Compact(d.units)
	// Before they can be taken again.
	s.discard(d.units)
	s.mu.Lock()
	for sh := range d.shadow.all() {
		l := sh.layer
		l.nodes, l.mapped, l.own = sh.nodes, sh.mapped, sh.own
		if sh.planned && l.inherit != nil {
			if l.inherit.rep != l.rep {
				l.inherit.clones--
			}
			l.inherit = nil
		}
	}
	for _, l := range s.sealed.layers {
		s.overlays.give(l.sealed)
		l.sealed = nil
	}
	clear(s.sealed.layers)
	s.sealed = generation{layers: s.sealed.layers[:0], runs: s.sealed.runs[:0]}
	for _, l := range d.drained {
		s.dead = slices.DeleteFunc(s.dead, func(o *layer) bool { return o == l })
		delete(s.layers, l.handle)
		if l.inherit != nil && l.inherit.rep != l.rep {
			l.inherit.clones--
		}
		f := l.rep.family()
		kin := s.families[f]
		if *kin--; *kin == 0 {
			delete(s.families, f)
		}
	}
	for _, slot := range d.slots {
		s.cache.drop(slot)
	}
	s.dirSlots = append(s.dirSlots[:0], d.dirNew...)
	s.mu.Unlock()
	d.shadow.forget()
	d.nodes.installed()
	d.giveBack()
	s.ring.checkpoint.Store(d.st.root.checkpoint)
	s.ring.tail.Store(d.st.endAbs)
	s.n.checkpoints.Add(1)
	s.qmu.Lock()
	s.progress = 0
	s.cycles.done = s.cycles.started
	s.qcond.Broadcast()
	s.qmu.Unlock()
}

// giveBack lets what the checkpoint freed be taken again.
func (d *destager) giveBack() {
	a := d.s.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, u := range d.units {
		a.units.release(u)
	}
	for _, slot := range d.slots {
		a.slots.release(slot)
	}
	d.units, d.slots = d.units[:0], d.slots[:0]
}

// discard tells a device of runs of free units that are worth a command.
func (s *Store) discard(units []uint32) {
	for i := 0; i < len(units); {
		j := i + 1
		for j < len(units) && units[j] == units[i]+uint32(j-i) {
			j++
		}
		if j-i >= discardUnits {
			if err := s.disk.Discard(s.geo.blockOff(uint64(units[i])*block.UnitBlocks), int64(j-i)*block.UnitSizeBytes); err != nil {
				s.log.Warn("discard failed", "disk", s.disk.String(), "error", err)
			}
		}
		i = j
	}
}

// discardUnits is the shortest run of units that is discarded: 1 MiB.
const discardUnits = 16
