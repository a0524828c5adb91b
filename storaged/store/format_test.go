package store

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func id16(b byte) (id [16]byte) {
	for i := range id {
		id[i] = b + byte(i)
	}
	return id
}

func goldenGeometry() geometry {
	g, err := planGeometry(1<<30, 32<<20, true)
	if err != nil {
		panic(err)
	}
	return g
}

func goldenPage() *mapPage {
	pg := &mapPage{}
	for u := range pageUnits {
		if u%3 == 2 {
			continue
		}
		pg.phys[u] = uint32(100 + u)
		pg.written[u] = 0x7ffe
		pg.bad[u] = 1 << (u % 3)
		pg.written[u] &^= pg.bad[u]
	}
	for i := range pg.stamp {
		pg.stamp[i] = uint64(block.NewStamp(3, uint64(i)))
		pg.crc[i] = uint32(i) * 0x01010101
	}
	return pg
}

func goldenNode() *node {
	n := &node{}
	for i := range nodePages {
		n.slot[i], n.crc[i], n.high[i], n.mask[i] = uint32(i+1), uint32(i)<<8, uint64(i)<<40, uint16(i)
	}
	n.slot[5] = slotLost
	return n
}

func goldenDirectory() *directory {
	l := func(h uint32, seq block.SnapSeq) dirLayer {
		x := dirLayer{handle: h, seq: seq, mapped: 70, own: 7}
		for i := range x.nodes {
			x.nodes[i] = slotRef{uint32(i), uint32(i) * 3}
		}
		return x
	}
	g := goldenGeometry()
	d := &directory{refs: make([]slotRef, g.refPages())}
	d.refs[1] = slotRef{9, 0xdeadbeef}
	d.fences = []VolumeFence{{block.VolumeID(id16(1)), 5, 2}}
	d.replicas = []dirReplica{{
		extent: block.ExtentID{Volume: block.VolumeID(id16(1)), Index: 7}, handle: 3, lineage: block.VolumeID(id16(2)),
		epoch: 5, generation: 6, watermark: 1 << 41, highest: 1<<41 + 9, joinStart: 1 << 40, flags: replicaJoining | replicaSuspect,
		layers: []dirLayer{l(4, 0), l(5, 2)},
	}}
	d.dead = []dirDead{{block.VolumeID(id16(2)), 7, l(6, 1)}}
	return d
}

func goldenBatch() []byte {
	var head []byte
	sums := []byte{1, 0, 0, 0, 2, 0, 0, 0}
	stamps := append(bytes.Clone(sums), 3, 0, 0, 0, 0, 1, 0, 0, 4, 0, 0, 0, 0, 1, 0, 0)
	e := block.ExtentID{Volume: block.VolumeID(id16(1)), Index: 7}
	lineage := id16(2)
	for _, x := range []entry{
		{typ: eReplica, handle: 3, extent: e, generation: 1, epoch: 2, extra: lineage[:]},
		{typ: eLayer, handle: 4, extent: e, snapSeq: 1, start: 2},
		{typ: ePut, flags: fWritten, handle: 4, extent: e, start: 10, count: 2, snapSeq: 1, stamp: 9, epoch: 2, generation: 1, watermark: 8, extra: sums},
		{typ: ePut, flags: fWritten | fStamps | fUnits, handle: 4, extent: e, start: 32, count: 2, stamp: 9, data: 160, extra: stamps},
		{typ: ePut, flags: fBad, handle: 4, extent: e, start: 40, count: 1, stamp: 11},
		{typ: eUnmapPage, handle: 4, extent: e, start: 2, count: 3, stamp: 12},
		{typ: eFence, extent: block.ExtentID{Volume: e.Volume}, epoch: 6, count: 2},
		{typ: eState, flags: fJoin | fJoining, handle: 3, extent: e, generation: 2, watermark: 8, stamp: 10},
		{typ: eSnapshots, extent: block.ExtentID{Volume: e.Volume}, snapSeq: 4, count: 2, extra: sums},
		{typ: eForget, extent: block.ExtentID{Volume: e.Volume}},
		{typ: eDelete, handle: 3, extent: e},
	} {
		head = appendEntry(head, &x)
	}
	h := batchHeader{journal: id16(5), seq: 77, lap: 2, pos: 300, headBlocks: 1, dataBlocks: 2, entries: 11, prevCount: 1, checkpoint: 6}
	p := make([]byte, slotBytes)
	putU32(p[batchHeaderBytes:], 3)
	h.headerBytes = uint32(batchHeaderBytes + 4 + copy(p[batchHeaderBytes+4:], head))
	h.encode(p[:h.headerBytes])
	return p
}

func goldenSlot(encode func(p []byte, h *slotHeader)) []byte {
	p := make([]byte, slotBytes)
	encode(p, &slotHeader{
		checkpoint: 12, volume: block.VolumeID(id16(2)), index: 7, number: 9, epoch: 5, generation: 6, link: 3, used: 0,
	})
	return p
}

func goldenSuper() *superblock {
	return &superblock{
		Superblock: Superblock{
			Cluster: block.ClusterID(id16(1)), DiskID: block.DiskID(id16(2)), JournalDisk: block.DiskID(id16(2)), MountType: DataStoreWithJournal,
			FormatVersion: 1, Feature: 1, MountCount: 42, SizeBytes: 1 << 30,
		},
		journalID: id16(5), geo: goldenGeometry(),
	}
}

func goldenRoot() *root {
	return &root{checkpoint: 12, seq: 77, lap: 2, pos: 300, dirSlot: 17, dirBytes: 1000, dirCRC: 0xabcdef01, nextHandle: 8, dirCopy: 29}
}

func goldenAreas() []byte {
	p := make([]byte, slotBytes)
	t := areaTable{number: 4, areas: []area{{block.DiskID(id16(3)), id16(4)}, {}, {block.DiskID(id16(5)), id16(6)}}}
	t.encode(p, block.DiskID(id16(2)))
	return p
}

// goldens are the structures on disk, with values in every field.
func goldens() map[string][]byte {
	super, rt := make([]byte, slotBytes), make([]byte, slotBytes)
	goldenSuper().encode(super)
	goldenRoot().encode(rt, block.DiskID(id16(2)))
	return map[string][]byte{
		"superblock": super,
		"root":       rt,
		"page":       goldenSlot(goldenPage().encode),
		"node":       goldenSlot(goldenNode().encode),
		"refs":       goldenSlot(func(p []byte, h *slotHeader) { encodeRefs(p, h, []uint16{1, 2, 0, 65535}) }),
		"directory":  goldenDirectory().append(nil),
		"batch":      goldenBatch(),
		"areas":      goldenAreas(),
	}
}

func TestFormatsAreAsTheyWereReleased(t *testing.T) {
	for name, got := range goldens() {
		path := filepath.Join("testdata", "golden", name+".hex")
		if *update {
			if err := os.WriteFile(path, []byte(hex.Dump(got)), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if hex.Dump(got) != string(want) {
			t.Errorf("%s has changed: disks written before cannot be read; raise the format version", name)
		}
	}
}

func TestStructuresComeBackAsTheyWereWritten(t *testing.T) {
	g := goldens()
	sb, err := decodeSuper(g["superblock"])
	if want := goldenSuper(); err != nil || !reflect.DeepEqual(&sb, want) {
		t.Errorf("superblock %+v, %v", sb, err)
	}
	rt, err := decodeRoot(g["root"], &sb)
	if err != nil || rt != *goldenRoot() {
		t.Errorf("root %+v, %v", rt, err)
	}
	var pg mapPage
	if _, err := pg.decode(g["page"], 1000); err != nil || pg != *goldenPage() {
		t.Errorf("page: %v", err)
	}
	n := &node{}
	if h, err := n.decode(g["node"], 1000); err != nil || !reflect.DeepEqual(n, goldenNode()) || h.number != 9 || h.index != 7 {
		t.Errorf("node: %v", err)
	}
	geo := goldenGeometry()
	d, err := decodeDirectory(g["directory"], &geo)
	if err != nil || !reflect.DeepEqual(d, goldenDirectory()) {
		t.Errorf("directory: %v", err)
	}
	h, ok := decodeBatchHead(g["batch"], id16(5), 1000)
	if !ok || h.seq != 77 || !verifyBatch(g["batch"][:h.headerBytes]) {
		t.Fatalf("batch %+v", h)
	}
	rest := g["batch"][batchHeaderBytes+4 : h.headerBytes]
	for range h.entries {
		var e entry
		if e, rest, err = decodeEntry(rest, h.dataBlocks, 1000); err != nil {
			t.Fatal(err)
		}
		if e.typ == ePut && e.flags&fStamps != 0 && (e.stampOf(1) != 1<<40+4 || e.sum(1) != 2) {
			t.Errorf("entry %+v", e)
		}
	}
	if len(rest) != 0 {
		t.Errorf("%d bytes left", len(rest))
	}
}

// FuzzDecoders gives bytes of a disk to every decoder, with checksums made right so that it gets beyond them.
func FuzzDecoders(f *testing.F) {
	names := []string{"superblock", "root", "page", "node", "refs", "directory", "batch"}
	g := goldens()
	for i, name := range names {
		f.Add(byte(i), g[name])
	}
	geo := goldenGeometry()
	f.Fuzz(func(t *testing.T, kind byte, p []byte) {
		p = bytes.Clone(p)
		if k := kind % 7; k != 5 {
			if len(p) < slotBytes {
				p = append(p, make([]byte, slotBytes-len(p))...)
			}
			if k != 6 {
				p = p[:slotBytes]
				seal(p)
			}
		}
		switch kind % 7 {
		case 0:
			if b, err := decodeSuper(p); err == nil && b.geo.check() != nil {
				t.Error("a superblock that contradicts itself")
			}
		case 1:
			if r, err := decodeRoot(p, goldenSuper()); err == nil && r.pos >= geo.journalBlocks {
				t.Error("a root that points nowhere")
			}
		case 2:
			var pg mapPage
			if _, err := pg.decode(p, 100); err == nil {
				for i := range pageBlocks {
					if e := pg.entry(i); e.state() == Written && (e.loc&locMask)/block.UnitBlocks >= 100 {
						t.Error("a page that points outside the disk")
					}
				}
			}
		case 3:
			n := &node{}
			if _, err := n.decode(p, 50); err == nil {
				for _, s := range n.slot {
					if s >= 50 && s != slotLost {
						t.Error("a node that points outside the disk")
					}
				}
			}
		case 4:
			_, _ = decodeRefs(p, make([]uint16, refsPerPage))
		case 5:
			if d, err := decodeDirectory(p, &geo); err == nil && !bytes.Equal(d.append(nil), p) {
				t.Error("a directory that is not what was read")
			}
		case 6:
			h, ok := decodeBatchHead(p, [16]byte(p[8:24]), 1000)
			if !ok || int(h.headerBytes) > len(p) {
				return
			}
			verifyBatch(p[:h.headerBytes])
			rest := p[batchHeaderBytes:h.headerBytes]
			for range h.entries {
				var e entry
				var err error
				if e, rest, err = decodeEntry(rest, h.dataBlocks, 100); err != nil {
					return
				}
				if e.typ == ePut && e.flags&fWritten != 0 {
					_, _ = e.sum(int(e.count)-1), e.stampOf(int(e.count)-1)
				}
			}
		}
	})
}
