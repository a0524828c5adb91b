package store

import (
	"fmt"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// InspectOptions choose what Inspect looks at beyond superblocks, checkpoint and replicas.
type InspectOptions struct {
	// Journal lists the batches of the journal.
	Journal bool
	// Extent, if set, lists the map of this extent.
	Extent *block.ExtentID
	// Verify reads every written block and checks it.
	Verify bool
	// JournalDisk is the journal disk of a DataStore disk. Without it the disk is shown as of its last checkpoint.
	JournalDisk vdisk.Disk
}

// Report is what is on a disk.
type Report struct {
	Superblock  Superblock     `json:"superblock"`
	Copies      []CopyReport   `json:"copies"`
	Geometry    GeometryReport `json:"geometry"`
	Checkpoint  uint64         `json:"checkpoint"`
	Journal     JournalReport  `json:"journal"`
	Fences      []VolumeFence  `json:"fences"`
	Replicas    []ReplicaInfo  `json:"replicas"`
	FreeBytes   int64          `json:"freeBytes"`
	FreeSlots   uint32         `json:"freeSlots"`
	Map         []MapRun       `json:"map,omitempty"`
	Verified    *VerifyReport  `json:"verified,omitempty"`
	Corruptions []Corruption   `json:"corruptions"`
	// Areas are those of a journal disk.
	Areas []AreaReport `json:"areas,omitempty"`
}

// AreaReport is one journal on a journal disk.
type AreaReport struct {
	OffsetByte int64        `json:"offset"`
	SizeBytes  int64        `json:"sizeBytes"`
	Disk       block.DiskID `json:"disk"` // whose it is
	Free       bool         `json:"free"`
}

// CopyReport tells whether one copy of a superblock or checkpoint root is good.
type CopyReport struct {
	What       string `json:"what"`
	OffsetByte int64  `json:"offset"`
	Number     uint64 `json:"number,omitempty"` // mount counter or checkpoint
	Problem    string `json:"problem,omitempty"`
}

// GeometryReport is where the regions lie, in bytes.
type GeometryReport struct {
	SizeBytes     int64  `json:"sizeBytes"`
	JournalOffset int64  `json:"journalOffset"`
	JournalBytes  int64  `json:"journalBytes"`
	MetaOffset    int64  `json:"metaOffset"`
	Slots         uint32 `json:"slots"`
	DataOffset    int64  `json:"dataOffset"`
	Units         uint32 `json:"units"`
}

// JournalReport is the part of the journal that recovery needs.
type JournalReport struct {
	UsedBytes int64         `json:"usedBytes"`
	NextBatch uint64        `json:"nextBatch"`
	Batches   []BatchReport `json:"batches,omitempty"`
	// Elsewhere: it is on another disk and was not looked at.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

// BatchReport is one journal batch.
type BatchReport struct {
	Number     uint64        `json:"number"`
	Lap        uint32        `json:"lap"`
	Position   uint32        `json:"position"`
	Checkpoint uint64        `json:"checkpoint"`
	DataBlocks uint32        `json:"dataBlocks"`
	Entries    []EntryReport `json:"entries"`
}

// EntryReport is one journal entry.
type EntryReport struct {
	Type       string           `json:"type"`
	Extent     block.ExtentID   `json:"extent"`
	Range      block.Range      `json:"range,omitzero"`
	Stamp      block.Stamp      `json:"stamp,omitempty"`
	SnapSeq    block.SnapSeq    `json:"snapSeq"`
	Epoch      block.Epoch      `json:"epoch"`
	Generation block.Generation `json:"generation"`
	Watermark  block.Stamp      `json:"watermark"`
}

// MapRun is a run of blocks of one view that lie side by side.
type MapRun struct {
	View       block.SnapSeq `json:"view"`
	Range      block.Range   `json:"range"`
	State      State         `json:"state"`
	First      block.Stamp   `json:"firstStamp"`
	Last       block.Stamp   `json:"lastStamp"`
	InJournal  bool          `json:"inJournal"`
	OffsetByte int64         `json:"offset"`
}

// VerifyReport is the outcome of reading everything.
type VerifyReport struct {
	Blocks uint64     `json:"blocks"`
	Bad    []BadBlock `json:"bad"`
}

// BadBlock is a block that does not verify.
type BadBlock struct {
	Extent block.ExtentID `json:"extent"`
	View   block.SnapSeq  `json:"view"`
	Block  block.No       `json:"block"`
	Stamp  block.Stamp    `json:"stamp"`
}

// badBlocksMax bounds VerifyReport.Bad.
const badBlocksMax = 1000

// Inspect reads what is on a disk and writes nothing. The disk must not be open in a store, or the picture may be torn.
func Inspect(disk vdisk.Disk, o InspectOptions) (*Report, error) {
	sb, _, err := readSuper(disk)
	if err != nil {
		return nil, err
	}
	rep := &Report{Superblock: sb.Superblock, Corruptions: []Corruption{}}
	g := sb.geo
	rep.Geometry = GeometryReport{
		SizeBytes: g.sizeBytes, JournalOffset: g.journalOff, JournalBytes: int64(g.journalBlocks) * slotBytes,
		MetaOffset: g.metaOff, Slots: g.slots, DataOffset: g.dataOff, Units: g.units,
	}
	if sb.MountType == CacheWithJournal {
		j := &Journals{disk: disk, sb: sb}
		if err := j.read(); err != nil {
			return rep, err
		}
		for i, a := range j.t.areas {
			rep.Areas = append(rep.Areas, AreaReport{OffsetByte: g.areaOff(i), SizeBytes: j.JournalBytes(), Disk: a.disk, Free: a.disk.IsZero()})
		}
		return rep, nil
	}
	rep.Copies = inspectCopies(disk, &sb)
	opts := Options{OnCorrupt: func(c Corruption) { rep.Corruptions = append(rep.Corruptions, c) }, StallAfter: -1}
	opts.setDefaults(disk.SizeBytes())
	s := newStore(disk, sb, opts)
	if sb.MountType == DataStore && o.JournalDisk != nil {
		jsb, _, err := readSuper(o.JournalDisk)
		if err == nil {
			j := &Journals{disk: o.JournalDisk, sb: jsb}
			if err = j.read(); err == nil {
				err = j.holds(&sb)
			}
		}
		if err != nil {
			return rep, err
		}
		s.jdisk = o.JournalDisk
	}
	rt, err := readRoot(disk, &sb)
	if err != nil {
		return rep, err
	}
	rep.Checkpoint = rt.checkpoint
	if err := s.loadCheckpoint(rt); err != nil {
		return rep, err
	}
	// Without its journal a data disk shows its last checkpoint.
	replay := sb.MountType != DataStore || o.JournalDisk != nil
	rep.Journal.Elsewhere = !replay
	if o.Journal && replay {
		if rep.Journal.Batches, err = s.listBatches(rt); err != nil {
			return rep, err
		}
	}
	if replay {
		if err := s.replay(rt); err != nil {
			return rep, err
		}
	}
	rep.Journal.UsedBytes, rep.Journal.NextBatch = int64(s.ring.used())*slotBytes, s.ring.seq
	rep.Fences, rep.Replicas = s.fences(), s.listReplicas()
	units, slots := s.alloc.freeCounts()
	rep.FreeBytes, rep.FreeSlots = int64(units)*block.UnitSizeBytes, slots
	if o.Extent != nil {
		if rep.Map, err = s.mapRuns(*o.Extent); err != nil {
			return rep, err
		}
	}
	if o.Verify {
		rep.Verified, err = s.verifyAll()
	}
	return rep, err
}

// inspectCopies looks at every copy of superblock and root.
func inspectCopies(disk vdisk.Disk, sb *superblock) []CopyReport {
	var out []CopyReport
	buf := vdisk.Aligned(slotBytes)
	look := func(what string, off int64, decode func() (uint64, error)) {
		c := CopyReport{What: what, OffsetByte: off}
		err := disk.ReadAt(buf, off)
		if err == nil {
			c.Number, err = decode()
		}
		if err != nil {
			c.Problem = err.Error()
		}
		out = append(out, c)
	}
	for _, off := range []int64{0, sb.geo.tailOff()} {
		look("superblock", off, func() (uint64, error) {
			b, err := decodeSuper(buf)
			return b.MountCount, err
		})
	}
	for n := range uint64(2) {
		for _, off := range sb.geo.rootOffs(n) {
			look(fmt.Sprintf("root %d", n), off, func() (uint64, error) {
				r, err := decodeRoot(buf, sb)
				return r.checkpoint, err
			})
		}
	}
	return out
}

func (t entryType) String() string {
	names := [...]string{"", "put", "unmap", "create", "delete", "layer", "fence", "forget fence", "state", "snapshots"}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// listBatches walks the journal like replay, without effect, up to the first place without a good batch.
func (s *Store) listBatches(rt root) ([]BatchReport, error) {
	r := &ringReader{s: s, buf: vdisk.Aligned(1 << 20)}
	at := uint64(rt.lap)*s.ring.blocks + uint64(rt.pos)
	var out []BatchReport
	for seq := rt.seq; ; seq++ {
		h, head, ok, err := s.nextBatch(r, &at, seq)
		if err != nil || !ok {
			return out, err
		}
		b := BatchReport{Number: h.seq, Lap: h.lap, Position: h.pos, Checkpoint: h.checkpoint, DataBlocks: h.dataBlocks}
		n := batchHeaderBytes
		if h.prevCount != prevAll {
			n += 4 * int(min(h.prevCount, uint32(len(head)-batchHeaderBytes)/4))
		}
		rest := head[n:]
		for range h.entries {
			e, more, err := decodeEntry(rest, h.dataBlocks, s.geo.units)
			if err != nil {
				return out, fmt.Errorf("journal batch %d: %w", h.seq, err)
			}
			x := EntryReport{
				Type: e.typ.String(), Extent: e.extent, Stamp: block.Stamp(e.stamp), SnapSeq: e.snapSeq, Epoch: e.epoch,
				Generation: e.generation, Watermark: block.Stamp(e.watermark),
			}
			switch e.typ {
			case ePut:
				x.Range = block.Range{Start: block.No(e.start), Count: e.count}
			case eUnmapPage:
				x.Range = block.Range{Start: block.No(e.start * pageBlocks), Count: e.count * pageBlocks}
			}
			b.Entries, rest = append(b.Entries, x), more
		}
		out = append(out, b)
		at += uint64(h.blocks())
	}
}

// eachPage looks up every page of a layer that has anything in it.
func (s *Store) eachPage(l *layer, f func(start block.No, ents []ovEntry) error) error {
	ents := make([]ovEntry, pageBlocks)
	for p := range uint32(pagesPerExtent) {
		if !l.touched(p) && l.baseHigh(p) == 0 {
			continue
		}
		for {
			ref, ok := s.lookup(l, block.No(p*pageBlocks), ents)
			if ok {
				break
			}
			s.loadPage(ref)
		}
		if err := f(block.No(p*pageBlocks), ents); err != nil {
			return err
		}
	}
	return nil
}

// mapRuns lists the map of all views of an extent.
func (s *Store) mapRuns(e block.ExtentID) ([]MapRun, error) {
	r := s.replicas[e]
	if r == nil {
		return nil, fmt.Errorf("%w: %s", ErrNoReplica, e)
	}
	out := []MapRun{}
	for _, l := range r.layers {
		err := s.eachPage(l, func(start block.No, ents []ovEntry) error {
			for i, x := range ents {
				if x.stamp == 0 && x.state() == Unwritten {
					continue
				}
				m := MapRun{View: l.seq, Range: block.Range{Start: start + block.No(i), Count: 1}, State: x.state(), First: block.Stamp(x.stamp), Last: block.Stamp(x.stamp)}
				if x.state() == Written {
					m.InJournal = x.loc&locJournal != 0
					m.OffsetByte = s.geo.blockOff(x.loc & locMask)
					if m.InJournal {
						m.OffsetByte = s.journalOff(x.loc & locMask)
					}
				}
				if k := len(out) - 1; k >= 0 {
					o := &out[k]
					if o.View == m.View && o.Range.End() == m.Range.Start && o.State == m.State && o.InJournal == m.InJournal &&
						(m.State != Written || m.OffsetByte == o.OffsetByte+int64(o.Range.SizeBytes())) {
						o.Range.Count++
						o.First, o.Last = min(o.First, m.First), max(o.Last, m.First)
						continue
					}
				}
				out = append(out, m)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// verifyAll reads every written block of every view.
func (s *Store) verifyAll() (*VerifyReport, error) {
	v := &VerifyReport{Bad: []BadBlock{}}
	ids := make([]block.ExtentID, 0, len(s.replicas))
	for _, i := range s.listReplicas() {
		ids = append(ids, i.Extent)
	}
	buf, info := vdisk.Aligned(pageBlocks*block.Size), make([]BlockInfo, pageBlocks)
	for _, e := range ids {
		for _, l := range slices.Clone(s.replicas[e].layers) {
			err := s.eachPage(l, func(start block.No, _ []ovEntry) error {
				if err := s.read(e, l.seq, block.Range{Start: start, Count: pageBlocks}, buf, info); err != nil {
					return err
				}
				for i, x := range info {
					switch x.State {
					case Written:
						v.Blocks++
					case Bad:
						v.Blocks++
						if len(v.Bad) < badBlocksMax {
							v.Bad = append(v.Bad, BadBlock{e, l.seq, start + block.No(i), x.Stamp})
						}
					}
				}
				return nil
			})
			if err != nil {
				return v, err
			}
		}
	}
	return v, nil
}
