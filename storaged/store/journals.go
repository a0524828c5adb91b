package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// Hybrid disks: the journals of several data disks (DataStore) lie on one fast disk (CacheWithJournal). Small writes are acknowledged when the
// fast disk has them, and moved to the slow one later, in address order. A data disk without its journal lacks acknowledged writes, so it is
// not opened: the loss of the fast disk costs the replicas of this node, and never a volume.
//
// A journal disk:
//
//	0            4 KiB   superblock, mount type 3: journal offset and blocks are those of the first area, slots the number of areas
//	4 KiB        4 KiB   area table
//	64 KiB       areas × journal blocks × 4 KiB
//	size−64 KiB  64 KiB  second copies, at the same places
//
// A data disk names the journal disk, the journal UUID, and place and size of its area in its superblock; the area table names the data
// disk and the same UUID. Both must agree.

// ErrNoJournal: the disk's journal is on a disk that is not there, or does not hold it.
var ErrNoJournal = errors.New("the journal of the disk is missing")

const (
	areasMax       = 64
	areaBytes      = 40
	areaTableBytes = 48
)

var areasMagic = [8]byte{'I', 'O', 'M', 'E', 'S', 'H', 'J', 'T'}

// area is the journal of one data disk.
type area struct {
	disk    block.DiskID // zero: free
	journal [16]byte
}

// areaTable says whose the areas are.
type areaTable struct {
	number uint64 // counts versions
	areas  []area
}

// encode writes the table:
//
//	 0   8  magic "IOMESHJT"
//	 8   2  format version    10  2 feature level   12 4 number of areas
//	16  16  journal disk id   32  8 version of the table   40 8 zero
//	48   …  areas: data disk id 16 (zero: free), journal UUID 16, zero 8
//	4092 4  CRC32C of bytes 0–4091
func (t *areaTable) encode(p []byte, id block.DiskID) {
	le := binary.LittleEndian
	clear(p[:slotBytes])
	copy(p, areasMagic[:])
	le.PutUint16(p[8:], formatVersion)
	le.PutUint16(p[10:], uint16(block.FeatureLevel))
	le.PutUint32(p[12:], uint32(len(t.areas)))
	copy(p[16:], id[:])
	le.PutUint64(p[32:], t.number)
	for i, a := range t.areas {
		q := p[areaTableBytes+i*areaBytes:]
		copy(q, a.disk[:])
		copy(q[16:], a.journal[:])
	}
	seal(p)
}

func decodeAreas(p []byte, b *superblock) (areaTable, error) {
	le := binary.LittleEndian
	n := le.Uint32(p[12:])
	switch {
	case [8]byte(p[:8]) != areasMagic || !sealed(p):
		return areaTable{}, fmt.Errorf("%w: table of journal areas does not verify", ErrCorrupt)
	case le.Uint16(p[8:]) > formatVersion || block.Feature(le.Uint16(p[10:])) > block.FeatureLevel:
		return areaTable{}, fmt.Errorf("%w: table of journal areas of format %d", ErrNewerFormat, le.Uint16(p[8:]))
	case block.DiskID(p[16:32]) != b.DiskID || n != b.geo.slots || n > areasMax:
		return areaTable{}, fmt.Errorf("%w: table of journal areas is of disk %s, with %d areas", ErrCorrupt, block.DiskID(p[16:32]), n)
	}
	t := areaTable{number: le.Uint64(p[32:]), areas: make([]area, n)}
	for i := range t.areas {
		q := p[areaTableBytes+i*areaBytes:]
		t.areas[i] = area{disk: block.DiskID(q[:16]), journal: [16]byte(q[16:32])}
	}
	return t, nil
}

// planAreas divides a journal disk.
func planAreas(sizeBytes, areaSize int64) (geometry, error) {
	sizeBytes &^= slotBytes - 1
	room := sizeBytes - headBytes - tailBytes
	if areaSize == 0 {
		areaSize = min(max(room/8, 2*journalBytesMin), journalBytesDefault) &^ (1<<20 - 1)
	}
	if areaSize < journalBytesMin || areaSize > journalBytesMax || areaSize%(1<<20) != 0 {
		return geometry{}, fmt.Errorf("%w: journals of %d bytes: must be whole MiB from %d to %d", ErrInvalid, areaSize, journalBytesMin, int64(journalBytesMax))
	}
	n := min(room/areaSize, areasMax)
	if n < 1 {
		return geometry{}, fmt.Errorf("%w: a disk of %d bytes has no room for a journal of %d", ErrInvalid, sizeBytes, areaSize)
	}
	return geometry{sizeBytes: sizeBytes, journalOff: headBytes, journalBlocks: uint32(areaSize / slotBytes), slots: uint32(n)}, nil
}

// checkAreas is check for a journal disk.
func (g geometry) checkAreas() error {
	if g.sizeBytes < diskBytesMin || g.sizeBytes%slotBytes != 0 || g.sizeBytes > 1<<50 || g.journalOff != headBytes || g.slots == 0 || g.slots > areasMax ||
		int64(g.journalBlocks)*slotBytes < journalBytesMin || int64(g.journalBlocks)*slotBytes > journalBytesMax ||
		headBytes+int64(g.slots)*int64(g.journalBlocks)*slotBytes > g.sizeBytes-tailBytes {
		return fmt.Errorf("%w: geometry %+v of a journal disk contradicts itself", ErrCorrupt, g)
	}
	return nil
}

func (g geometry) areaOff(i int) int64 {
	return headBytes + int64(i)*int64(g.journalBlocks)*slotBytes
}

// Journals is an open journal disk. Safe for concurrent use.
type Journals struct {
	disk vdisk.Disk
	sb   superblock
	mu   sync.Mutex
	t    areaTable
}

// formatJournals writes an empty journal disk.
func formatJournals(disk vdisk.Disk, o FormatOptions) error {
	geo, err := planAreas(disk.SizeBytes(), o.JournalBytes)
	if err != nil {
		return err
	}
	sb := superblock{
		Superblock: Superblock{
			Cluster: o.Cluster, DiskID: o.DiskID, JournalDisk: o.DiskID, MountType: CacheWithJournal,
			FormatVersion: formatVersion, Feature: block.FeatureLevel, SizeBytes: geo.sizeBytes,
		},
		geo: geo,
	}
	rand.Read(sb.journalID[:])
	zeros := vdisk.Aligned(headBytes)
	for _, off := range []int64{0, geo.tailOff()} {
		if err := disk.WriteDurable(zeros, off); err != nil {
			return err
		}
	}
	j := &Journals{disk: disk, sb: sb, t: areaTable{areas: make([]area, geo.slots)}}
	if err := j.write(j.t); err != nil {
		return err
	}
	return writeSuper(disk, &sb)
}

// OpenJournals raises the mount counter of a journal disk and reads its table. The disk stays the caller's, and must stay open for as long as a
// store uses a journal on it.
func OpenJournals(disk vdisk.Disk, cluster block.ClusterID) (*Journals, error) {
	sb, _, err := readSuper(disk)
	if err != nil {
		return nil, err
	}
	switch {
	case sb.MountType != CacheWithJournal:
		return nil, fmt.Errorf("%w: disk %s holds data, not journals", ErrForeign, disk)
	case !cluster.IsZero() && sb.Cluster != cluster:
		return nil, fmt.Errorf("%w: disk %s belongs to cluster %s, not %s", ErrForeign, disk, sb.Cluster, cluster)
	}
	j := &Journals{disk: disk, sb: sb}
	if err := j.read(); err != nil {
		return nil, fmt.Errorf("open journal disk %s: %w", disk, err)
	}
	j.sb.MountCount++
	if err := writeSuper(disk, &j.sb); err != nil {
		return nil, fmt.Errorf("open journal disk %s: %w", disk, err)
	}
	return j, nil
}

// read takes the newer of the two good copies of the table.
func (j *Journals) read() error {
	buf := vdisk.Aligned(slotBytes)
	var errs []error
	ok := false
	for _, off := range j.tableOffs() {
		err := j.disk.ReadAt(buf, off)
		if err == nil {
			var t areaTable
			if t, err = decodeAreas(buf, &j.sb); err == nil {
				if !ok || t.number > j.t.number {
					j.t, ok = t, true
				}
				continue
			}
		}
		errs = append(errs, err)
	}
	if !ok {
		return errors.Join(errs...)
	}
	return nil
}

func (j *Journals) tableOffs() [2]int64 {
	return [2]int64{slotBytes, j.sb.geo.tailOff() + slotBytes}
}

// write makes a table durable, one copy after the other, so that a power cut leaves one.
func (j *Journals) write(t areaTable) error {
	p := vdisk.Aligned(slotBytes)
	t.encode(p, j.sb.DiskID)
	for _, off := range j.tableOffs() {
		if err := j.disk.WriteDurable(p, off); err != nil {
			return fmt.Errorf("table of journal areas of disk %s: %w", j.disk, err)
		}
	}
	return nil
}

// Superblock is the identity of the journal disk.
func (j *Journals) Superblock() Superblock { return j.sb.Superblock }

// JournalBytes is the size of each journal; Areas the number of them, and how many are free.
func (j *Journals) JournalBytes() int64 { return int64(j.sb.geo.journalBlocks) * slotBytes }

// Areas is the number of journals the disk has room for, and how many are free.
func (j *Journals) Areas() (all, free int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, a := range j.t.areas {
		if a.disk.IsZero() {
			free++
		}
	}
	return len(j.t.areas), free
}

// change makes a changed table durable before it is used.
func (j *Journals) change(f func(areas []area) error) error {
	t := areaTable{number: j.t.number + 1, areas: append([]area(nil), j.t.areas...)}
	if err := f(t.areas); err != nil {
		return err
	}
	if err := j.write(t); err != nil {
		return err
	}
	j.t = t
	return nil
}

// reserve gives an area to a data disk, durably, and returns its index. A disk that has one gets it again: its journal begins anew.
func (j *Journals) reserve(disk block.DiskID, journal [16]byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	at := -1
	err := j.change(func(areas []area) error {
		for i, a := range areas {
			if a.disk == disk || at < 0 && a.disk.IsZero() {
				at = i
				if a.disk == disk {
					break
				}
			}
		}
		if at < 0 {
			return fmt.Errorf("%w: all %d journals of disk %s are taken", ErrNoSpace, len(areas), j.sb.DiskID)
		}
		areas[at] = area{disk: disk, journal: journal}
		return nil
	})
	return at, err
}

// Release frees the journal of a data disk that is not needed any more, durably. Its content cannot be opened afterwards.
func (j *Journals) Release(disk block.DiskID) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.change(func(areas []area) error {
		for i := range areas {
			if areas[i].disk == disk {
				areas[i] = area{}
			}
		}
		return nil
	})
}

// holds checks that the journal a data disk names is here.
func (j *Journals) holds(sb *superblock) error {
	if j == nil {
		return fmt.Errorf("%w: it is on disk %s: bring that disk back; if it is lost for good, wipe this one, and its replicas are made anew from others", ErrNoJournal, sb.JournalDisk)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.sb.DiskID != sb.JournalDisk {
		return fmt.Errorf("%w: it is on disk %s, not on %s", ErrNoJournal, sb.JournalDisk, j.sb.DiskID)
	}
	for i, a := range j.t.areas {
		if a.disk == sb.DiskID && a.journal == sb.journalID && j.sb.geo.areaOff(i) == sb.geo.journalOff && j.sb.geo.journalBlocks == sb.geo.journalBlocks {
			return nil
		}
	}
	return fmt.Errorf("%w: disk %s does not hold it any more: wipe this disk, and its replicas are made anew from others", ErrNoJournal, sb.JournalDisk)
}

// formatData writes an empty store whose journal is on another disk.
func formatData(ctx context.Context, disk vdisk.Disk, sb *superblock, o FormatOptions) error {
	if o.Journals == nil {
		return fmt.Errorf("%w: it needs a cacheWithJournal disk on the same node", ErrNoJournal)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	geo, err := planGeometry(disk.SizeBytes(), o.Journals.JournalBytes(), false)
	if err != nil {
		return err
	}
	// First the area: one that is taken by a disk which was never formatted is found by its disk id when that is tried again.
	i, err := o.Journals.reserve(o.DiskID, sb.journalID)
	if err != nil {
		return err
	}
	geo.journalOff = o.Journals.sb.geo.areaOff(i)
	sb.geo, sb.JournalDisk, sb.MountType, sb.SizeBytes = geo, o.Journals.sb.DiskID, DataStore, geo.sizeBytes
	return nil
}
