package store

import (
	"fmt"

	"github.com/iomesh/iomesh/storaged/block"
)

// exclusive reports whether data may be moved into a unit in place.
func (d *destager) exclusive(u uint32) bool {
	_, source := d.sources[u]
	return !source && d.refcount(u) == 1
}

// planUnit brings entries of one unit into d.pg and decides where their data goes.
func (d *destager) planUnit(l *layer, sh *shadowLayer, page uint32, u int, ents []destageEntry) error {
	pg := &d.pg
	base := u * block.UnitBlocks
	phys := pg.phys[u]
	inherit := false
	live := ents[:0]
	for _, x := range ents {
		i := int(x.b % pageBlocks)
		if x.e.loc&locInherit != 0 {
			inherit = true
		}
		if x.e.loc&locRepair != 0 && phys != 0 && pg.written[u]>>(i-base)&1 != 0 && pg.stamp[i] == x.e.stamp && pg.crc[i] == x.e.crc {
			// The record is right and only the data is not: it may be mended in place for all who share it.
			d.moves = append(d.moves, move{x.e.loc & locMask, uint64(phys-1)*block.UnitBlocks + uint64(i-base)})
			continue
		}
		live = append(live, x)
	}
	ents = live
	if len(ents) == 0 {
		return nil
	}
	if inherit && sh.prev != nil {
		done, err := d.shareUnit(sh, page, u, ents)
		if done || err != nil {
			return err
		}
	}
	// Which of the fresh units of large writes, not in a page yet, holds most of the blocks?
	best, bestN := uint32(0), 0
	needData := false
	for k, x := range ents {
		if x.e.state() != Written {
			continue
		}
		if x.e.loc&locJournal != 0 {
			needData = true
			continue
		}
		c := uint32((x.e.loc & locMask) / block.UnitBlocks)
		if c+1 == best || d.refcount(c) != 0 {
			needData = needData || c+1 != best
			continue
		}
		m := 0
		for _, y := range ents[k:] {
			if y.e.state() == Written && y.e.loc&locJournal == 0 && uint32((y.e.loc&locMask)/block.UnitBlocks) == c {
				m++
			}
		}
		if m > bestN {
			needData = needData || best != 0
			best, bestN = c+1, m
		} else {
			needData = true
		}
	}
	var over uint16
	for _, x := range ents {
		over |= 1 << (int(x.b%pageBlocks) - base)
	}
	kept := pg.written[u] &^ over
	target := phys
	switch {
	case best != 0:
		target = best
		d.ref(best - 1)
	case needData && (phys == 0 || !d.exclusive(phys-1)):
		runs, ok := d.s.alloc.allocUnits(nil, 1, d.hint, 0)
		if !ok {
			return fmt.Errorf("%w: no unit for what is in the journal", ErrNoSpace)
		}
		target = runs[0].start + 1
		d.hint = target
		d.ref(target - 1)
	}
	if target != phys && phys != 0 {
		d.copyKept(phys, target, kept)
		d.deref(phys - 1)
	}
	for _, x := range ents {
		i := int(x.b % pageBlocks)
		bit := uint16(1) << (i - base)
		pg.stamp[i], pg.crc[i] = x.e.stamp, x.e.crc
		pg.written[u] &^= bit
		pg.bad[u] &^= bit
		switch x.e.state() {
		case Bad:
			pg.bad[u] |= bit
		case Written:
			pg.written[u] |= bit
			dst := uint64(target-1)*block.UnitBlocks + uint64(i-base)
			switch src := x.e.loc & locMask; {
			case x.e.loc&locJournal != 0:
				d.moves = append(d.moves, move{src, dst})
			case src != dst:
				d.sources[uint32(src/block.UnitBlocks)] = struct{}{}
				d.shifts = append(d.shifts, shift{src, dst, 1})
			}
		}
	}
	if pg.written[u] == 0 && target != 0 {
		d.deref(target - 1)
		target = 0
	}
	pg.phys[u] = target
	return nil
}

// copyKept plans copies of the blocks of a unit that stay when the unit is replaced.
func (d *destager) copyKept(from, to uint32, kept uint16) {
	if kept != 0 {
		d.sources[from-1] = struct{}{}
	}
	for b := uint64(0); b < block.UnitBlocks; b++ {
		if kept>>b&1 == 0 {
			continue
		}
		src, dst := uint64(from-1)*block.UnitBlocks+b, uint64(to-1)*block.UnitBlocks+b
		if n := len(d.shifts); n > 0 && d.shifts[n-1].src+d.shifts[n-1].n == src && d.shifts[n-1].dst+d.shifts[n-1].n == dst {
			d.shifts[n-1].n++
			continue
		}
		d.shifts = append(d.shifts, shift{src, dst, 1})
	}
}

// shareUnit lets a unit that has become equal to that of the next older layer be the same one.
func (d *destager) shareUnit(sh *shadowLayer, page uint32, u int, ents []destageEntry) (bool, error) {
	prev := d.layer(sh.prev)
	if err := d.loadInto(&d.aux, sh.prev, prev.nodes[page/nodePages], page); err != nil {
		return false, err
	}
	pg, o := &d.pg, &d.aux
	base := u * block.UnitBlocks
	stamp, written, bad := [block.UnitBlocks]uint64(pg.stamp[base:]), pg.written[u], pg.bad[u]
	for _, x := range ents {
		i := int(x.b%pageBlocks) - base
		stamp[i] = x.e.stamp
		written &^= 1 << i
		bad &^= 1 << i
		switch x.e.state() {
		case Written:
			written |= 1 << i
		case Bad:
			bad |= 1 << i
		}
	}
	if stamp != [block.UnitBlocks]uint64(o.stamp[base:]) || written != o.written[u] || bad != o.bad[u] || o.lost {
		return false, nil
	}
	if o.phys[u] != 0 {
		d.ref(o.phys[u] - 1)
	}
	if pg.phys[u] != 0 {
		d.deref(pg.phys[u] - 1)
	}
	copy(pg.stamp[base:base+block.UnitBlocks], o.stamp[base:])
	copy(pg.crc[base:base+block.UnitBlocks], o.crc[base:])
	pg.phys[u], pg.written[u], pg.bad[u] = o.phys[u], o.written[u], o.bad[u]
	return true, nil
}
