package store

import (
	"encoding/binary"
	"fmt"

	"github.com/iomesh/iomesh/storaged/block"
)

var batchMagic = [4]byte{'I', 'O', 'M', 'J'}

const (
	batchHeaderBytes = 80
	entryBytes       = 72
	// prevAll in batchHeader.prevCount: the batch before held changes of which no list is kept.
	prevAll = ^uint32(0)
	// prevMax bounds that list.
	prevMax = 256
)

// batchHeader begins a journal batch: what one synchronous write made durable.
//
//	 0  4  magic "IOMJ"
//	 4  2  format version   6 2 feature level
//	 8 16  journal UUID
//	24  8  batch number, raised by one
//	32  4  lap             36 4 position in blocks of the ring
//	40  4  header bytes: this, the list and the entries
//	44  4  data blocks
//	48  4  entries
//	52  4  length of the list of replicas changed by the batch before; 2^32-1: any
//	56  8  checkpoint that was current
//	64  4  header blocks: data follows after so many blocks
//	68  8  zero
//	76  4  CRC32C of all header bytes, with this field zero
//	80     list of replica handles, u32 each; then the entries
type batchHeader struct {
	journal     [16]byte
	seq         uint64
	lap, pos    uint32
	headerBytes uint32
	headBlocks  uint32 // may be more than headerBytes need
	dataBlocks  uint32
	entries     uint32
	prevCount   uint32
	checkpoint  uint64
}

func (h *batchHeader) blocks() uint32 { return h.headBlocks + h.dataBlocks }

// encode writes the header into p, which holds all header bytes, and seals them.
func (h *batchHeader) encode(p []byte) {
	le := binary.LittleEndian
	copy(p, batchMagic[:])
	le.PutUint16(p[4:], formatVersion)
	le.PutUint16(p[6:], uint16(block.FeatureLevel))
	copy(p[8:], h.journal[:])
	le.PutUint64(p[24:], h.seq)
	le.PutUint32(p[32:], h.lap)
	le.PutUint32(p[36:], h.pos)
	le.PutUint32(p[40:], h.headerBytes)
	le.PutUint32(p[44:], h.dataBlocks)
	le.PutUint32(p[48:], h.entries)
	le.PutUint32(p[52:], h.prevCount)
	le.PutUint64(p[56:], h.checkpoint)
	le.PutUint32(p[64:], h.headBlocks)
	clear(p[68:80])
	le.PutUint32(p[76:], block.CRC32C(p[:h.headerBytes]))
}

// decodeBatchHead reads the fixed part of a header, without its checksum: what a scan needs to know how much to read.
func decodeBatchHead(p []byte, journal [16]byte, ringBlocks uint32) (batchHeader, bool) {
	le := binary.LittleEndian
	if [4]byte(p[:4]) != batchMagic || [16]byte(p[8:24]) != journal || le.Uint16(p[4:]) != formatVersion {
		return batchHeader{}, false
	}
	h := batchHeader{
		journal: journal, seq: le.Uint64(p[24:]), lap: le.Uint32(p[32:]), pos: le.Uint32(p[36:]), headerBytes: le.Uint32(p[40:]),
		dataBlocks: le.Uint32(p[44:]), entries: le.Uint32(p[48:]), prevCount: le.Uint32(p[52:]), checkpoint: le.Uint64(p[56:]),
		headBlocks: le.Uint32(p[64:]),
	}
	if h.headerBytes < batchHeaderBytes || h.headBlocks > batchHeadMax/slotBytes || h.headerBytes > h.headBlocks*slotBytes || h.dataBlocks > batchDataMax/slotBytes || h.pos >= ringBlocks || h.blocks() > ringBlocks-h.pos {
		return batchHeader{}, false
	}
	return h, true
}

// verifyBatch checks the checksum over the header bytes p.
func verifyBatch(p []byte) bool {
	le := binary.LittleEndian
	want := le.Uint32(p[76:])
	le.PutUint32(p[76:], 0)
	ok := block.CRC32C(p) == want
	le.PutUint32(p[76:], want)
	return ok
}

// entryType is what a journal entry says.
type entryType uint8

const (
	ePut       entryType = 1 // blocks have new content
	eUnmapPage entryType = 2 // whole pages are unmapped
	eReplica   entryType = 3 // a replica is created
	eDelete    entryType = 4 // a replica is deleted
	eLayer     entryType = 5 // a layer is added to a replica
	eFence     entryType = 6 // a volume's fence is raised
	eForget    entryType = 7 // a volume's fence is dropped
	eState     entryType = 8 // generation, watermark, join start of a replica
	eSnapshots entryType = 9 // views of a volume that are needed
)

// Flags of an entry.
const (
	fWritten uint8 = 1 << 0 // put: blocks have data
	fBad     uint8 = 1 << 1 // put: blocks are lost
	fUnits   uint8 = 1 << 2 // put: data is in units of the data region, not in the batch
	fStamps  uint8 = 1 << 3 // put: a stamp per block follows
	fInherit uint8 = 1 << 4 // put: see locInherit
	fRepair  uint8 = 1 << 5 // put: see locRepair
	fJoin    uint8 = 1 << 6 // state: the join start is set
	fJoining uint8 = 1 << 7 // state: to joining
)

// entry is one change. On disk, after the fixed part:
//
//	 0  1  type      1 1 flags    2 2 zero
//	 4  4  handle of the layer (put, unmap, layer) or replica (replica)
//	 8 16  volume   24 4 extent index
//	28  4  first block (put), first page (unmap), handle of the layer shared (layer)
//	32  4  blocks, pages, views (snapshots), owner (fence)
//	36  4  snapshot sequence
//	40  8  stamp; join start (state)
//	48  4  epoch    52 4 generation
//	56  8  watermark
//	64  8  data: block within the batch's data, or unit × 16 + block with fUnits
//	72     4 × blocks checksums if fWritten; 8 × blocks stamps if fStamps; 4 × views (snapshots); 16 lineage (replica)
type entry struct {
	typ        entryType
	flags      uint8
	handle     uint32
	extent     block.ExtentID
	start      uint32
	count      uint32
	snapSeq    block.SnapSeq
	stamp      uint64
	epoch      block.Epoch
	generation block.Generation
	watermark  uint64
	data       uint64
	extra      []byte
}

// appendEntry appends the fixed part of e and e.extra.
func appendEntry(p []byte, e *entry) []byte {
	le := binary.LittleEndian
	n := len(p)
	p = append(p, make([]byte, entryBytes)...)
	q := p[n:]
	q[0], q[1] = byte(e.typ), e.flags
	le.PutUint32(q[4:], e.handle)
	copy(q[8:], e.extent.Volume[:])
	le.PutUint32(q[24:], uint32(e.extent.Index))
	le.PutUint32(q[28:], e.start)
	le.PutUint32(q[32:], e.count)
	le.PutUint32(q[36:], uint32(e.snapSeq))
	le.PutUint64(q[40:], e.stamp)
	le.PutUint32(q[48:], uint32(e.epoch))
	le.PutUint32(q[52:], uint32(e.generation))
	le.PutUint64(q[56:], e.watermark)
	le.PutUint64(q[64:], e.data)
	return append(p, e.extra...)
}

// extraBytes is what follows the fixed part.
func (e *entry) extraBytes() int {
	switch e.typ {
	case ePut:
		n := 0
		if e.flags&fWritten != 0 {
			n += 4
		}
		if e.flags&fStamps != 0 {
			n += 8
		}
		return n * int(e.count)
	case eSnapshots:
		return 4 * int(e.count)
	case eReplica:
		return 16
	}
	return 0
}

// sum is the checksum of block i of a put with data.
func (e *entry) sum(i int) uint32 { return binary.LittleEndian.Uint32(e.extra[4*i:]) }

// stampOf is the stamp of block i of a put.
func (e *entry) stampOf(i int) uint64 {
	if e.flags&fStamps == 0 {
		return e.stamp
	}
	off := 0
	if e.flags&fWritten != 0 {
		off = 4 * int(e.count)
	}
	return binary.LittleEndian.Uint64(e.extra[off+8*i:])
}

// decodeEntry reads one entry from the front of p; extra aliases p.
func decodeEntry(p []byte, dataBlocks, units uint32) (e entry, rest []byte, err error) {
	le := binary.LittleEndian
	if len(p) < entryBytes {
		return e, nil, fmt.Errorf("%w: journal entry is cut short", ErrCorrupt)
	}
	e = entry{
		typ: entryType(p[0]), flags: p[1], handle: le.Uint32(p[4:]),
		extent: block.ExtentID{Volume: block.VolumeID(p[8:24]), Index: block.ExtentIndex(le.Uint32(p[24:]))},
		start:  le.Uint32(p[28:]), count: le.Uint32(p[32:]), snapSeq: block.SnapSeq(le.Uint32(p[36:])), stamp: le.Uint64(p[40:]),
		epoch: block.Epoch(le.Uint32(p[48:])), generation: block.Generation(le.Uint32(p[52:])),
		watermark: le.Uint64(p[56:]), data: le.Uint64(p[64:]),
	}
	switch e.typ {
	case ePut:
		if !(block.Range{Start: block.No(e.start), Count: e.count}).Valid() {
			return e, nil, fmt.Errorf("%w: journal entry outside its extent", ErrCorrupt)
		}
		end := uint64(dataBlocks)
		if e.flags&fUnits != 0 {
			end = uint64(units) * block.UnitBlocks
		}
		if e.flags&fWritten != 0 && (e.data > end || uint64(e.count) > end-e.data) {
			return e, nil, fmt.Errorf("%w: journal entry points outside its data", ErrCorrupt)
		}
	case eUnmapPage:
		if e.count == 0 || e.start >= pagesPerExtent || e.count > pagesPerExtent-e.start {
			return e, nil, fmt.Errorf("%w: journal entry outside its extent", ErrCorrupt)
		}
	case eReplica, eDelete, eLayer, eFence, eForget, eState:
	case eSnapshots:
		if e.count > snapshotsMax {
			return e, nil, fmt.Errorf("%w: journal entry with %d views", ErrCorrupt, e.count)
		}
	default:
		return e, nil, fmt.Errorf("%w: journal entry of type %d", ErrCorrupt, e.typ)
	}
	p = p[entryBytes:]
	n := e.extraBytes()
	if len(p) < n {
		return e, nil, fmt.Errorf("%w: journal entry is cut short", ErrCorrupt)
	}
	e.extra = p[:n]
	return e, p[n:], nil
}
