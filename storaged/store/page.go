package store

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"sync/atomic"

	"github.com/iomesh/iomesh/storaged/block"
)

const (
	pageUnits      = 16
	pageBlocks     = pageUnits * block.UnitBlocks // 256 blocks: 1 MiB of a volume
	pagesPerExtent = block.PerExtent / pageBlocks // 1024

	kindPage = 1
	kindNode = 2
	kindRefs = 3
	kindDir  = 4
)

var slotMagic = [4]byte{'I', 'O', 'M', 'T'}

// slotHeader begins every 4 KiB slot of the meta region, so that a slot tells what it is without the tree above it (I13):
//
//	 0  4  magic "IOMT"
//	 4  2  kind: 1 map page, 2 table node, 3 refcounts, 4 directory
//	 6  2  format version
//	 8  8  checkpoint in which it was written
//	16 16  lineage (map page) or volume (node); zero otherwise
//	32  4  extent index
//	36  4  number: of the page or node in its extent, of the refcount page, of the directory slot in its chain
//	40  4  epoch        44 4 generation   (of the replica when it was written)
//	48  4  next directory slot; layer handle of a node
//	52  4  bytes used (directory)
//	56  8  zero
//	64     body
//	4092 4 CRC32C of bytes 0–4091
type slotHeader struct {
	kind       uint16
	checkpoint uint64
	volume     block.VolumeID
	index      block.ExtentIndex
	number     uint32
	epoch      block.Epoch
	generation block.Generation
	link       uint32
	used       uint32
}

const slotHeaderBytes = 64

func (h *slotHeader) encode(p []byte) {
	le := binary.LittleEndian
	clear(p[:slotHeaderBytes])
	copy(p, slotMagic[:])
	le.PutUint16(p[4:], h.kind)
	le.PutUint16(p[6:], formatVersion)
	le.PutUint64(p[8:], h.checkpoint)
	copy(p[16:], h.volume[:])
	le.PutUint32(p[32:], uint32(h.index))
	le.PutUint32(p[36:], h.number)
	le.PutUint32(p[40:], uint32(h.epoch))
	le.PutUint32(p[44:], uint32(h.generation))
	le.PutUint32(p[48:], h.link)
	le.PutUint32(p[52:], h.used)
}

// decodeSlot checks magic, checksum, version and kind.
func decodeSlot(p []byte, kind uint16) (slotHeader, error) {
	le := binary.LittleEndian
	switch {
	case [4]byte(p[:4]) != slotMagic:
		return slotHeader{}, fmt.Errorf("%w: slot has no magic", ErrCorrupt)
	case !sealed(p):
		return slotHeader{}, fmt.Errorf("%w: slot checksum", ErrCorrupt)
	case le.Uint16(p[6:]) != formatVersion:
		return slotHeader{}, fmt.Errorf("%w: slot of format %d", ErrCorrupt, le.Uint16(p[6:]))
	case le.Uint16(p[4:]) != kind:
		return slotHeader{}, fmt.Errorf("%w: slot of kind %d where %d is expected", ErrCorrupt, le.Uint16(p[4:]), kind)
	}
	return slotHeader{
		kind: kind, checkpoint: le.Uint64(p[8:]), volume: block.VolumeID(p[16:32]), index: block.ExtentIndex(le.Uint32(p[32:])),
		number: le.Uint32(p[36:]), epoch: block.Epoch(le.Uint32(p[40:])), generation: block.Generation(le.Uint32(p[44:])),
		link: le.Uint32(p[48:]), used: le.Uint32(p[52:]),
	}, nil
}

// slotCRC is the checksum by which the parent of a slot knows it: the one in its last four bytes.
func slotCRC(p []byte) uint32 { return binary.LittleEndian.Uint32(p[slotBytes-4:]) }

// mapPage maps 1 MiB of one view of an extent. Pointer-free.
type mapPage struct {
	stamp   [pageBlocks]uint64
	crc     [pageBlocks]uint32
	phys    [pageUnits]uint32 // unit + 1; 0 is none
	written [pageUnits]uint16
	bad     [pageUnits]uint16
	lost    bool // stands for a page that could not be read: every block bad, with stamp 0
}

// lostPage is what stands for a map page that does not verify: nothing is known of its blocks, so that each is bad until
// another replica brings it.
func lostPage(pg *mapPage) {
	*pg = mapPage{lost: true}
	for u := range pg.bad {
		pg.bad[u] = 0xffff
	}
}

// encode writes the page as a slot. Body, per unit u at 64 + 200 u:
//
//	0   4  physical unit + 1, 0 if none
//	4   2  written mask, bit b = block 16 u + b
//	6   2  bad mask
//	8 192  16 × (CRC32C u32, stamp u64)
func (pg *mapPage) encode(p []byte, h *slotHeader) {
	le := binary.LittleEndian
	h.kind = kindPage
	h.encode(p)
	q := p[slotHeaderBytes:]
	for u := range pageUnits {
		le.PutUint32(q, pg.phys[u])
		le.PutUint16(q[4:], pg.written[u])
		le.PutUint16(q[6:], pg.bad[u])
		for i := range block.UnitBlocks {
			le.PutUint32(q[8+12*i:], pg.crc[u*block.UnitBlocks+i])
			le.PutUint64(q[12+12*i:], pg.stamp[u*block.UnitBlocks+i])
		}
		q = q[200:]
	}
	clear(q)
	seal(p)
}

// decode reads a page slot; units is the number of units of the disk.
func (pg *mapPage) decode(p []byte, units uint32) (slotHeader, error) {
	h, err := decodeSlot(p, kindPage)
	if err != nil {
		return h, err
	}
	le := binary.LittleEndian
	q := p[slotHeaderBytes:]
	pg.lost = false
	for u := range pageUnits {
		pg.phys[u] = le.Uint32(q)
		pg.written[u] = le.Uint16(q[4:])
		pg.bad[u] = le.Uint16(q[6:])
		if pg.phys[u] > units || pg.phys[u] == 0 && pg.written[u] != 0 {
			return h, fmt.Errorf("%w: map page points outside the disk", ErrCorrupt)
		}
		for i := range block.UnitBlocks {
			pg.crc[u*block.UnitBlocks+i] = le.Uint32(q[8+12*i:])
			pg.stamp[u*block.UnitBlocks+i] = le.Uint64(q[12+12*i:])
		}
		q = q[200:]
	}
	return h, nil
}

// highest is the highest stamp in the page.
func (pg *mapPage) highest() uint64 {
	var m uint64
	for _, s := range pg.stamp {
		m = max(m, s)
	}
	return m
}

// mask has a bit for each unit the page points to.
func (pg *mapPage) mask() (m uint16) {
	for u, p := range pg.phys {
		if p != 0 {
			m |= 1 << u
		}
	}
	return m
}

// mapped is the number of units the page points to.
func (pg *mapPage) mapped() int { return bits.OnesCount16(pg.mask()) }

// uniform reports whether every block is unwritten, good and of the same stamp: such a page needs no slot.
func (pg *mapPage) uniform() bool {
	for u := range pageUnits {
		if pg.phys[u] != 0 || pg.bad[u] != 0 {
			return false
		}
	}
	for _, s := range pg.stamp[1:] {
		if s != pg.stamp[0] {
			return false
		}
	}
	return true
}

// entry is the block as an overlay entry.
func (pg *mapPage) entry(i int) ovEntry {
	u, b := i/block.UnitBlocks, i%block.UnitBlocks
	e := ovEntry{stamp: pg.stamp[i]}
	switch {
	case pg.bad[u]>>b&1 != 0:
		e.loc = locBad
	case pg.written[u]>>b&1 != 0:
		e.loc = locWritten | (uint64(pg.phys[u]-1)*block.UnitBlocks + uint64(b))
		e.crc = pg.crc[i]
	}
	return e
}

// diffUnits is the number of units a points to that b does not have in the same place.
func diffUnits(a, b *mapPage) int {
	n := 0
	for u := range pageUnits {
		if a.phys[u] != 0 && a.phys[u] != b.phys[u] {
			n++
		}
	}
	return n
}

const (
	nodePages      = 128
	nodesPerExtent = pagesPerExtent / nodePages // 8
	// slotLost in a node stands for a page whose place is not known any more.
	slotLost = ^uint32(0)
)

// node is a part of the page table of a layer: 128 MiB of the extent. Layers share nodes that are equal; a shared node is
// never changed. Pointer-free.
type node struct {
	slot [nodePages]uint32 // 0: no page; every block is unwritten and has the stamp high
	crc  [nodePages]uint32
	high [nodePages]uint64 // highest stamp in the page
	mask [nodePages]uint16 // units the page points to
	refs atomic.Int32      // layers that use the node; the destager's, others only look
	disk uint32            // slot of the node on disk; 0 while it is newer than the disk
	sum  uint32            // slotCRC of that slot
}

// encode writes the node as a slot. Body at 64: 128 × (slot u32, slot checksum u32, highest stamp u64), then 128 × mask u16 of
// the units the page points to.
func (n *node) encode(p []byte, h *slotHeader) {
	le := binary.LittleEndian
	h.kind = kindNode
	h.encode(p)
	clear(p[slotHeaderBytes:slotBytes])
	for i := range nodePages {
		q := p[slotHeaderBytes+16*i:]
		le.PutUint32(q, n.slot[i])
		le.PutUint32(q[4:], n.crc[i])
		le.PutUint64(q[8:], n.high[i])
		le.PutUint16(p[slotHeaderBytes+16*nodePages+2*i:], n.mask[i])
	}
	seal(p)
}

// decode reads a node slot; slots is the number of slots of the disk.
func (n *node) decode(p []byte, slots uint32) (slotHeader, error) {
	h, err := decodeSlot(p, kindNode)
	if err != nil {
		return h, err
	}
	le := binary.LittleEndian
	for i := range nodePages {
		q := p[slotHeaderBytes+16*i:]
		n.slot[i] = le.Uint32(q)
		n.crc[i] = le.Uint32(q[4:])
		n.high[i] = le.Uint64(q[8:])
		n.mask[i] = le.Uint16(p[slotHeaderBytes+16*nodePages+2*i:])
		if n.slot[i] >= slots && n.slot[i] != slotLost {
			return h, fmt.Errorf("%w: table node points outside the disk", ErrCorrupt)
		}
	}
	return h, nil
}

// lostNode stands for a node that does not verify.
func lostNode() *node {
	n := &node{}
	n.refs.Store(1)
	for i := range n.slot {
		n.slot[i] = slotLost
	}
	return n
}

// encodeRefs writes a refcount page. Body: 2014 × u16 at 64: how many map pages point to each unit.
func encodeRefs(p []byte, h *slotHeader, refs []uint16) {
	h.kind = kindRefs
	h.encode(p)
	clear(p[slotHeaderBytes:slotBytes])
	for i, r := range refs {
		binary.LittleEndian.PutUint16(p[slotHeaderBytes+2*i:], r)
	}
	seal(p)
}

// decodeRefs fills refs from a refcount page.
func decodeRefs(p []byte, refs []uint16) (slotHeader, error) {
	h, err := decodeSlot(p, kindRefs)
	if err != nil {
		return h, err
	}
	for i := range refs {
		refs[i] = binary.LittleEndian.Uint16(p[slotHeaderBytes+2*i:])
	}
	return h, nil
}
