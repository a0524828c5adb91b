package store

import (
	"encoding/binary"
	"fmt"

	"github.com/iomesh/iomesh/storaged/block"
)

// slotRef points to a slot and tells the checksum it must have, so that a slot left over from an older checkpoint is noticed.
type slotRef struct{ slot, sum uint32 }

// dirLayer is a layer in the directory.
type dirLayer struct {
	handle uint32
	seq    block.SnapSeq
	mapped uint32 // units the layer points to
	own    uint32 // of those, units the next newer layer does not have
	nodes  [nodesPerExtent]slotRef
}

// dirReplica is a replica in the directory.
type dirReplica struct {
	extent     block.ExtentID
	handle     uint32
	lineage    block.VolumeID
	epoch      block.Epoch
	generation block.Generation
	watermark  uint64
	highest    uint64
	joinStart  uint64
	flags      uint32
	layers     []dirLayer
}

const (
	replicaJoining = 1 << 0
	replicaSuspect = 1 << 1
)

// dirDead is a layer that is being freed.
type dirDead struct {
	lineage block.VolumeID
	index   block.ExtentIndex
	layer   dirLayer
}

// directory is the table of everything in a checkpoint. On disk it is a stream of bytes cut into slots that are chained by
// slotHeader.link, 4028 bytes each, in two copies; the root knows the first slots, length and CRC32C:
//
//	u32 n; n × (slot u32, checksum u32)                 refcount pages; slot 0: all counts are zero
//	u32 n; n × (volume 16, epoch u32, owner u32)        fences
//	u32 n; n × replica:  volume 16, index u32, handle u32, lineage 16, epoch u32, generation u32, watermark u64,
//	                     highest stamp u64, join start u64, flags u32 (1 joining, 2 suspect), layers u32; layers, ascending
//	u32 n; n × (lineage 16, index u32, layer)           layers being freed
//	layer:               handle u32, snapshot sequence u32, units u32, own units u32, 8 × (node slot u32, checksum u32)
type directory struct {
	refs     []slotRef
	fences   []VolumeFence
	replicas []dirReplica
	dead     []dirDead
}

const (
	dirSlotBytes    = slotBytes - slotHeaderBytes - 4
	dirLayerBytes   = 16 + 8*nodesPerExtent
	dirReplicaBytes = 80
	layersMax       = 60000 // layers of one extent index and lineage, bounded by the width of reference counts
	snapshotsMax    = 65536
)

func (l *dirLayer) append(p []byte) []byte {
	le := binary.LittleEndian
	p = le.AppendUint32(p, l.handle)
	p = le.AppendUint32(p, uint32(l.seq))
	p = le.AppendUint32(p, l.mapped)
	p = le.AppendUint32(p, l.own)
	for _, n := range l.nodes {
		p = le.AppendUint32(p, n.slot)
		p = le.AppendUint32(p, n.sum)
	}
	return p
}

func (d *directory) append(p []byte) []byte {
	le := binary.LittleEndian
	p = le.AppendUint32(p, uint32(len(d.refs)))
	for _, r := range d.refs {
		p = le.AppendUint32(p, r.slot)
		p = le.AppendUint32(p, r.sum)
	}
	p = le.AppendUint32(p, uint32(len(d.fences)))
	for _, f := range d.fences {
		p = append(p, f.Volume[:]...)
		p = le.AppendUint32(p, uint32(f.Epoch))
		p = le.AppendUint32(p, uint32(f.Owner))
	}
	p = le.AppendUint32(p, uint32(len(d.replicas)))
	for i := range d.replicas {
		r := &d.replicas[i]
		p = append(p, r.extent.Volume[:]...)
		p = le.AppendUint32(p, uint32(r.extent.Index))
		p = le.AppendUint32(p, r.handle)
		p = append(p, r.lineage[:]...)
		p = le.AppendUint32(p, uint32(r.epoch))
		p = le.AppendUint32(p, uint32(r.generation))
		p = le.AppendUint64(p, r.watermark)
		p = le.AppendUint64(p, r.highest)
		p = le.AppendUint64(p, r.joinStart)
		p = le.AppendUint32(p, r.flags)
		p = le.AppendUint32(p, uint32(len(r.layers)))
		for j := range r.layers {
			p = r.layers[j].append(p)
		}
	}
	p = le.AppendUint32(p, uint32(len(d.dead)))
	for i := range d.dead {
		p = append(p, d.dead[i].lineage[:]...)
		p = le.AppendUint32(p, uint32(d.dead[i].index))
		p = d.dead[i].layer.append(p)
	}
	return p
}

// reader takes a byte stream apart; after a short read all further reads are zero and bad is set.
type reader struct {
	p   []byte
	bad bool
}

func (r *reader) bytes(n int) []byte {
	if len(r.p) < n {
		r.bad, r.p = true, nil
		return make([]byte, n)
	}
	b := r.p[:n]
	r.p = r.p[n:]
	return b
}
func (r *reader) u32() uint32 { return binary.LittleEndian.Uint32(r.bytes(4)) }
func (r *reader) u64() uint64 { return binary.LittleEndian.Uint64(r.bytes(8)) }

// count reads the number of items of at least size bytes that follow; more than can follow is bad.
func (r *reader) count(size int) int {
	n := r.u32()
	if int64(n)*int64(size) > int64(len(r.p)) {
		r.bad, r.p = true, nil
		return 0
	}
	return int(n)
}

func (r *reader) layer(g *geometry) dirLayer {
	l := dirLayer{handle: r.u32(), seq: block.SnapSeq(r.u32()), mapped: r.u32(), own: r.u32()}
	for i := range l.nodes {
		l.nodes[i] = slotRef{r.u32(), r.u32()}
		if l.nodes[i].slot >= g.slots {
			r.bad = true
		}
	}
	return l
}

// decodeDirectory reads the stream.
func decodeDirectory(p []byte, g *geometry) (*directory, error) {
	r := &reader{p: p}
	d := &directory{}
	for range r.count(8) {
		d.refs = append(d.refs, slotRef{r.u32(), r.u32()})
		if d.refs[len(d.refs)-1].slot >= g.slots {
			r.bad = true
		}
	}
	for range r.count(24) {
		d.fences = append(d.fences, VolumeFence{block.VolumeID(r.bytes(16)), block.Epoch(r.u32()), block.ChunkID(r.u32())})
	}
	for range r.count(dirReplicaBytes) {
		x := dirReplica{
			extent: block.ExtentID{Volume: block.VolumeID(r.bytes(16)), Index: block.ExtentIndex(r.u32())},
			handle: r.u32(), lineage: block.VolumeID(r.bytes(16)), epoch: block.Epoch(r.u32()), generation: block.Generation(r.u32()),
			watermark: r.u64(), highest: r.u64(), joinStart: r.u64(), flags: r.u32(),
		}
		for range r.count(dirLayerBytes) {
			l := r.layer(g)
			if n := len(x.layers); n > 0 && x.layers[n-1].seq >= l.seq {
				r.bad = true
			}
			x.layers = append(x.layers, l)
		}
		d.replicas = append(d.replicas, x)
	}
	for range r.count(20 + dirLayerBytes) {
		d.dead = append(d.dead, dirDead{block.VolumeID(r.bytes(16)), block.ExtentIndex(r.u32()), r.layer(g)})
	}
	if r.bad || len(r.p) != 0 || len(d.refs) != g.refPages() {
		return nil, fmt.Errorf("%w: directory of the checkpoint does not decode", ErrCorrupt)
	}
	return d, nil
}
