package store

import (
	"fmt"

	"github.com/iomesh/iomesh/storaged/block"
)

// Sizes of the format.
const (
	slotBytes = 4096
	// headBytes at the front and tailBytes at the end of the disk hold a superblock and two checkpoint roots each.
	headBytes = 64 << 10
	tailBytes = 64 << 10
	// refsPerPage is the number of unit reference counts in one refcount page.
	refsPerPage = 2014

	journalBytesMin     = 1 << 20
	journalBytesMax     = 64 << 30
	journalBytesDefault = 1 << 30
	diskBytesMin        = 8 << 20
)

// geometry is where the regions of a disk lie. Offsets and sizes in bytes unless said; all are in the superblock.
//
//	0          superblock, root 0, root 1, zeros to 64 KiB
//	journalOff journal ring (absent when it is on another disk)
//	metaOff    slots of 4 KiB
//	dataOff    units of 64 KiB
//	size-64Ki  superblock, root 0, root 1 (second copies)
type geometry struct {
	sizeBytes     int64
	journalOff    int64
	journalBlocks uint32
	metaOff       int64
	slots         uint32
	dataOff       int64
	units         uint32
}

// planGeometry divides a disk. ownJournal is false when the journal is on another disk.
func planGeometry(sizeBytes, journalBytes int64, ownJournal bool) (geometry, error) {
	sizeBytes &^= slotBytes - 1
	if sizeBytes < diskBytesMin {
		return geometry{}, fmt.Errorf("%w: a disk of %d bytes is too small, %d are needed", ErrInvalid, sizeBytes, diskBytesMin)
	}
	if journalBytes == 0 {
		journalBytes = min(max(sizeBytes/16, 2*journalBytesMin), journalBytesDefault) &^ (1<<20 - 1)
	}
	if journalBytes < journalBytesMin || journalBytes > journalBytesMax || journalBytes%(1<<20) != 0 {
		return geometry{}, fmt.Errorf("%w: journal of %d bytes: must be whole MiB from %d to %d", ErrInvalid, journalBytes, journalBytesMin, int64(journalBytesMax))
	}
	g := geometry{sizeBytes: sizeBytes, journalOff: headBytes, journalBlocks: uint32(journalBytes / slotBytes)}
	g.metaOff = headBytes
	if ownJournal {
		g.metaOff += journalBytes
	}
	rest := sizeBytes - tailBytes - g.metaOff
	if rest < 4<<20 {
		return geometry{}, fmt.Errorf("%w: a disk of %d bytes has no room for data beside a journal of %d", ErrInvalid, sizeBytes, journalBytes)
	}
	// A slot for every four units serves maps as sparse as four units per MiB of volume, or as many snapshot layers, beside
	// the copies a checkpoint makes; at least 256 for the tree itself.
	slots := max(rest/(4*block.UnitSizeBytes), 256)
	slots = (slots + 15) &^ 15
	g.slots = uint32(slots)
	g.dataOff = g.metaOff + slots*slotBytes
	g.units = uint32((sizeBytes - tailBytes - g.dataOff) / block.UnitSizeBytes)
	return g, g.check()
}

// check refuses a geometry whose regions overlap or leave the disk.
func (g geometry) check() error {
	switch {
	case g.sizeBytes < diskBytesMin || g.sizeBytes%slotBytes != 0 || g.sizeBytes > 1<<50,
		g.journalOff < 0 || g.journalOff%slotBytes != 0,
		int64(g.journalBlocks)*slotBytes < journalBytesMin || int64(g.journalBlocks)*slotBytes > journalBytesMax,
		g.metaOff < headBytes || g.metaOff%slotBytes != 0,
		g.slots < 16 || g.dataOff%slotBytes != 0 || g.dataOff < g.metaOff+int64(g.slots)*slotBytes,
		g.units == 0 || g.units >= 1<<28 || g.dataOff+int64(g.units)*block.UnitSizeBytes > g.sizeBytes-tailBytes:
		return fmt.Errorf("%w: geometry %+v contradicts itself", ErrCorrupt, g)
	}
	return nil
}

func (g geometry) tailOff() int64                  { return g.sizeBytes - tailBytes }
func (g geometry) slotOff(slot uint32) int64       { return g.metaOff + int64(slot)*slotBytes }
func (g geometry) blockOff(unitBlock uint64) int64 { return g.dataOff + int64(unitBlock)*block.Size }
func (g geometry) refPages() int                   { return int((g.units + refsPerPage - 1) / refsPerPage) }

// rootOffs are the places of the two copies of root slot n & 1.
func (g geometry) rootOffs(n uint64) [2]int64 {
	o := slotBytes * (1 + int64(n&1))
	return [2]int64{o, g.tailOff() + o}
}
