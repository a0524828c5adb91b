package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

func format(ctx context.Context, disk vdisk.Disk, o FormatOptions) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if o.Cluster.IsZero() || o.DiskID.IsZero() {
		return fmt.Errorf("%w: format disk %s without cluster or disk id", ErrInvalid, disk)
	}
	if o.MountType == 0 {
		o.MountType = DataStoreWithJournal
	}
	if o.MountType > CacheWithJournal {
		return fmt.Errorf("%w: there is no mount type %d", ErrInvalid, o.MountType)
	}
	if !o.Overwrite {
		if err := mustBeBlank(disk); err != nil {
			return fmt.Errorf("format disk %s: %w", disk, err)
		}
	}
	if o.MountType == CacheWithJournal {
		if err := formatJournals(disk, o); err != nil {
			return fmt.Errorf("format disk %s: %w", disk, err)
		}
		return nil
	}
	sb := superblock{
		Superblock: Superblock{
			Cluster: o.Cluster, DiskID: o.DiskID, JournalDisk: o.DiskID, MountType: o.MountType,
			FormatVersion: formatVersion, Feature: block.FeatureLevel,
		},
	}
	rand.Read(sb.journalID[:])
	var err error
	if o.MountType == DataStore {
		err = formatData(ctx, disk, &sb, o)
	} else {
		sb.geo, err = planGeometry(disk.SizeBytes(), o.JournalBytes, true)
		sb.SizeBytes = sb.geo.sizeBytes
	}
	if err != nil {
		return fmt.Errorf("format disk %s: %w", disk, err)
	}
	geo := sb.geo
	// The superblocks come last: a disk is formatted or it is not. What an older store left at their places goes first.
	zeros := vdisk.Aligned(headBytes)
	for _, off := range []int64{0, geo.tailOff()} {
		if err := disk.WriteDurable(zeros, off); err != nil {
			return fmt.Errorf("format disk %s: %w", disk, err)
		}
	}
	if err := writeRoot(disk, &sb, &root{checkpoint: 1, seq: 1, lap: 0, pos: 0, nextHandle: 1}); err != nil {
		return fmt.Errorf("format disk %s: %w", disk, err)
	}
	if err := writeSuper(disk, &sb); err != nil {
		return fmt.Errorf("format disk %s: %w", disk, err)
	}
	return nil
}

// mustBeBlank refuses a disk with anything in its first or last MiB.
func mustBeBlank(disk vdisk.Disk) error {
	buf := vdisk.Aligned(1 << 20)
	for _, off := range []int64{0, disk.SizeBytes()&^(slotBytes-1) - int64(len(buf))} {
		if err := disk.ReadAt(buf, off); err != nil {
			return err
		}
		for i, c := range buf {
			if c != 0 {
				return fmt.Errorf("%w at byte %d; wipe it first", ErrForeign, off+int64(i))
			}
		}
	}
	return nil
}

// The default of Options.CacheBytes is the disk's size divided by cacheShare, within these bounds. A page of 4 KiB maps 1 MiB of a
// volume: 64 MiB are the map of 16 GiB that are in use, 256 MiB that of 64 GiB.
const (
	cacheShare = 8 << 10
	cacheMin   = 64 << 20
	cacheMax   = 256 << 20
)

func (o *Options) setDefaults(diskBytes int64) {
	if o.CacheBytes == 0 {
		o.CacheBytes = min(max(diskBytes/cacheShare, cacheMin), cacheMax)
	}
	if o.DestageFill <= 0 || o.DestageFill > 60 {
		o.DestageFill = 50
	}
	if o.DestageIdle == 0 {
		o.DestageIdle = 2 * time.Second
	}
	if o.StallAfter == 0 {
		o.StallAfter = timeouts.DiskStall
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

func open(ctx context.Context, disk vdisk.Disk, o Options) (*Store, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	o.setDefaults(disk.SizeBytes())
	sb, _, err := readSuper(disk)
	if err != nil {
		return nil, err
	}
	if !o.Cluster.IsZero() && sb.Cluster != o.Cluster {
		return nil, fmt.Errorf("%w: disk %s belongs to cluster %s, not %s", ErrForeign, disk, sb.Cluster, o.Cluster)
	}
	journal := disk
	switch sb.MountType {
	case DataStore:
		if err := o.Journals.holds(&sb); err != nil {
			return nil, fmt.Errorf("open disk %s: %w", disk, err)
		}
		journal = o.Journals.disk
	case CacheWithJournal:
		return nil, fmt.Errorf("%w: disk %s holds journals, not data", ErrForeign, disk)
	}
	// Before anything else is written: from now on an older copy of this disk can be told from it.
	sb.MountCount++
	if err := writeSuper(disk, &sb); err != nil {
		return nil, fmt.Errorf("open disk %s: %w", disk, err)
	}
	s := newStore(disk, sb, o)
	s.jdisk = journal
	s.async = asyncOf(disk)
	asyncOf(journal)
	if err := s.recover(); err != nil {
		return nil, fmt.Errorf("open disk %s: %w", disk, err)
	}
	s.start()
	return s, nil
}

// asyncOf has a disk do its requests asynchronously from now on, if it can.
func asyncOf(d vdisk.Disk) vdisk.Async {
	if a, ok := d.(interface{ Async() vdisk.Async }); ok {
		return a.Async()
	}
	return nil
}

// newStore returns an empty store without goroutines.
func newStore(disk vdisk.Disk, sb superblock, o Options) *Store {
	s := &Store{
		disk: disk, jdisk: disk, opts: o, log: o.Log, sb: sb, geo: sb.geo,
		replicas: map[block.ExtentID]*replica{}, layers: map[uint32]*layer{}, volumes: map[block.VolumeID]VolumeFence{},
		families: map[family]*int{}, cache: newPageCache(o.CacheBytes), nextHandle: 1,
		larges: map[uint64]struct{}{},
		kick:   make(chan struct{}, 1), stop: make(chan struct{}), committed: make(chan struct{}),
	}
	s.alloc = &allocator{
		units: newBitmap(s.geo.units), slots: newBitmap(s.geo.slots),
		unitRef: make([]uint16, s.geo.units), slotRef: make([]uint16, s.geo.slots),
		reserve:      max(min(s.geo.units/64, 16384), 4),
		reserveSlots: uint32(s.geo.refPages()) + max(s.geo.slots/32, 32),
	}
	s.alloc.slots.take(0)
	s.refSlots = make([]slotRef, s.geo.refPages())
	s.ring.blocks = uint64(s.geo.journalBlocks)
	s.batch = newBatch(min(batchDataMax/slotBytes, s.geo.journalBlocks/4))
	s.qcond.L = &s.qmu
	s.dataJobs.cond.L = &s.dataJobs.mu
	s.scratch.New = func() any { return new(readScratch) }
	s.io.init(o.StallAfter, o.OnStall, o.OnStallEnd)
	return s
}

func (s *Store) start() {
	s.lastBusy = time.Now()
	s.wg.Add(2 + dataWriters)
	go s.commitLoop()
	go s.destageLoop()
	for range dataWriters {
		go s.dataLoop()
	}
	s.io.start(&s.wg, s.stop)
}

func (s *Store) close() error {
	s.qmu.Lock()
	if s.closing {
		s.qmu.Unlock()
		return ErrClosed
	}
	s.qmu.Unlock()
	var err error
	if s.failure() == nil {
		err = s.sync(context.Background())
	}
	s.qmu.Lock()
	s.closing = true
	s.qcond.Broadcast()
	s.qmu.Unlock()
	s.halt()
	return errors.Join(err, s.failure())
}

// abandon stops the store like a crash does: nothing is brought to an end.
func (s *Store) abandon() {
	_ = s.fail(errAbandoned)
	s.qmu.Lock()
	if s.closing {
		s.qmu.Unlock()
		return
	}
	s.closing = true
	s.qcond.Broadcast()
	s.qmu.Unlock()
	s.halt()
}

var errAbandoned = errors.New("store abandoned")

// halt waits for the store's goroutines, which see closing.
func (s *Store) halt() {
	// The committer ends when nothing is queued and no large write is on its way; until then it may begin further large
	// writes, so that the data writers go after it. It may also still need the destager to find room for what is queued.
	<-s.committed
	s.dataJobs.close()
	close(s.stop)
	s.wg.Wait()
}

// recover reads the last checkpoint and what the journal holds beyond it.
func (s *Store) recover() error {
	rt, err := readRoot(s.disk, &s.sb)
	if err != nil {
		return err
	}
	if err := s.loadCheckpoint(rt); err != nil {
		return err
	}
	if err := s.replay(rt); err != nil {
		return err
	}
	return s.dropTail()
}

// loadCheckpoint builds the tables from the tree under a root.
func (s *Store) loadCheckpoint(rt root) error {
	s.nextHandle = rt.nextHandle
	s.ring.checkpoint.Store(rt.checkpoint)
	dir := &directory{refs: make([]slotRef, s.geo.refPages())}
	if rt.dirBytes > 0 {
		p, slots, err := s.readDirectory(rt)
		if err != nil {
			return err
		}
		if dir, err = decodeDirectory(p, &s.geo); err != nil {
			return err
		}
		s.dirSlots = slots
		for _, slot := range slots {
			s.alloc.slots.take(slot)
		}
	}
	for _, f := range dir.fences {
		s.volumes[f.Volume] = f
	}
	nodes := map[uint32]*node{}
	for i := range dir.replicas {
		x := &dir.replicas[i]
		r := s.addReplica(x.extent, x.handle, x.lineage)
		r.epoch, r.generation, r.watermark, r.highest, r.joinStart = x.epoch, x.generation, x.watermark, x.highest, x.joinStart
		r.joining, r.suspect = x.flags&replicaJoining != 0, x.flags&replicaSuspect != 0
		for j := range x.layers {
			s.loadLayer(r, &x.layers[j], nodes)
		}
		r.base, r.reshaped = slices.Clone(r.layers), false
	}
	for i := range dir.dead {
		x := &dir.dead[i]
		r := &replica{id: block.ExtentID{Volume: x.lineage, Index: x.index}, lineage: x.lineage, seeder: block.NewSeeder(x.lineage, x.index)}
		s.bury(s.loadLayer(r, &x.layer, nodes))
	}
	return s.loadRefs(dir.refs, nodes)
}

// readDirectory reads the directory from whichever of its copies is whole; both are written anew by the next checkpoint. Nothing is taken from
// a copy in part: it is small, and two damaged copies are no single fault.
func (s *Store) readDirectory(rt root) (p []byte, slots []uint32, err error) {
	p, slots, err = s.readDirectoryAt(rt, rt.dirSlot)
	if rt.dirCopy == 0 {
		return p, slots, err
	}
	q, others, cerr := s.readDirectoryAt(rt, rt.dirCopy)
	for _, e := range []error{err, cerr} {
		if e != nil {
			s.n.metaErrors.Add(1)
			s.corrupt(fmt.Sprintf("a copy of the directory: %v", e))
		}
	}
	if err != nil {
		p, err = q, cerr
	}
	// What was read of a damaged copy is kept out of use until the next checkpoint, too.
	return p, append(slots, others...), err
}

// readDirectoryAt reads one chain of directory slots. slots is what was read of it, also with an error.
func (s *Store) readDirectoryAt(rt root, slot uint32) (p []byte, slots []uint32, err error) {
	buf := vdisk.Aligned(slotBytes)
	for i := uint32(0); len(p) < int(rt.dirBytes); i++ {
		if slot == 0 {
			return nil, slots, fmt.Errorf("%w: directory ends after %d of %d bytes", ErrCorrupt, len(p), rt.dirBytes)
		}
		if err := s.disk.ReadAt(buf, s.geo.slotOff(slot)); err != nil {
			return nil, slots, err
		}
		h, err := decodeSlot(buf, kindDir)
		if err != nil {
			return nil, slots, fmt.Errorf("directory slot %d: %w", slot, err)
		}
		if h.number != i || h.checkpoint != rt.checkpoint || h.used == 0 || h.used > dirSlotBytes || h.link >= s.geo.slots {
			return nil, slots, fmt.Errorf("%w: directory slot %d is part %d of checkpoint %d, not part %d of %d", ErrCorrupt, slot, h.number, h.checkpoint, i, rt.checkpoint)
		}
		p = append(p, buf[slotHeaderBytes:slotHeaderBytes+h.used]...)
		slots = append(slots, slot)
		slot = h.link
	}
	if len(p) != int(rt.dirBytes) || block.CRC32C(p) != rt.dirCRC {
		return nil, slots, fmt.Errorf("%w: directory does not have the checksum the root tells", ErrCorrupt)
	}
	return p, slots, nil
}

// loadLayer adds a layer with its nodes, sharing those that were read before.
func (s *Store) loadLayer(r *replica, x *dirLayer, nodes map[uint32]*node) *layer {
	l := s.addLayer(r, x.handle, x.seq, nil)
	l.mapped, l.own = int64(x.mapped), int64(x.own)
	for k, ref := range x.nodes {
		if ref.slot == 0 {
			continue
		}
		n := nodes[ref.slot]
		if n == nil {
			n = s.readNode(r, uint32(k), ref)
			nodes[ref.slot] = n
			s.alloc.slots.take(ref.slot)
			for _, slot := range n.slot {
				if slot != 0 && slot != slotLost {
					s.alloc.slotRef[slot]++
					s.alloc.slots.take(slot)
				}
			}
		} else {
			n.refs.Add(1)
		}
		l.nodes[k] = n
		for _, h := range n.high {
			l.max = max(l.max, h)
		}
	}
	return l
}

// readNode reads a table node. One that does not verify is replaced by a lost one: its blocks are bad until other replicas
// bring them, and the rest of the disk is as good as before.
func (s *Store) readNode(r *replica, k uint32, ref slotRef) *node {
	buf := vdisk.Aligned(slotBytes)
	n := &node{}
	err := s.disk.ReadAt(buf, s.geo.slotOff(ref.slot))
	if err == nil {
		var h slotHeader
		h, err = n.decode(buf, s.geo.slots)
		if err == nil && (slotCRC(buf) != ref.sum || h.number != k || h.index != r.id.Index) {
			err = fmt.Errorf("%w: it is of checkpoint %d, node %d of %s/%d", ErrCorrupt, h.checkpoint, h.number, h.volume, h.index)
		}
	}
	if err != nil {
		s.n.metaErrors.Add(1)
		s.corrupt(fmt.Sprintf("table node %d in slot %d: %v", k, ref.slot, err), r.id)
		n = lostNode()
	}
	n.refs.Store(1)
	n.disk, n.sum = ref.slot, ref.sum
	return n
}

// loadRefs reads the reference counts; if a page of them does not verify, all are counted anew from the map pages.
func (s *Store) loadRefs(refs []slotRef, nodes map[uint32]*node) error {
	s.refSlots = slices.Clone(refs)
	buf := vdisk.Aligned(slotBytes)
	damaged := false
	for k, ref := range refs {
		if ref.slot == 0 {
			continue
		}
		s.alloc.slots.take(ref.slot)
		if err := s.disk.ReadAt(buf, s.geo.slotOff(ref.slot)); err != nil {
			return err
		}
		lo := k * refsPerPage
		h, err := decodeRefs(buf, s.alloc.unitRef[lo:min(lo+refsPerPage, len(s.alloc.unitRef))])
		if err == nil && (slotCRC(buf) != ref.sum || h.number != uint32(k)) {
			err = fmt.Errorf("%w: it is number %d of checkpoint %d", ErrCorrupt, h.number, h.checkpoint)
		}
		if err != nil {
			s.n.metaErrors.Add(1)
			s.corrupt(fmt.Sprintf("reference counts %d in slot %d: %v; counting anew", k, ref.slot, err))
			damaged = true
		}
	}
	if damaged {
		s.countRefs(nodes)
	}
	for u, n := range s.alloc.unitRef {
		if n > 0 {
			s.alloc.units.take(uint32(u))
		}
	}
	return nil
}

// countRefs counts the map pages that point to each unit.
func (s *Store) countRefs(nodes map[uint32]*node) {
	clear(s.alloc.unitRef)
	buf := vdisk.Aligned(slotBytes)
	var pg mapPage
	seen := map[uint32]bool{}
	for _, n := range nodes {
		for _, slot := range n.slot {
			if slot == 0 || slot == slotLost || seen[slot] {
				continue
			}
			seen[slot] = true
			if err := s.disk.ReadAt(buf, s.geo.slotOff(slot)); err != nil {
				continue
			}
			if _, err := pg.decode(buf, s.geo.units); err != nil {
				continue // its blocks are lost; whoever reads the page reports it
			}
			for _, p := range pg.phys {
				if p != 0 {
					s.alloc.unitRef[p-1]++
				}
			}
		}
	}
}
