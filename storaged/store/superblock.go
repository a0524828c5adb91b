package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// formatVersion is the version of all structures on disk that this release writes and reads.
const formatVersion = 1

var (
	superMagic = [8]byte{'I', 'O', 'M', 'E', 'S', 'H', 'S', 'B'}
	rootMagic  = [8]byte{'I', 'O', 'M', 'E', 'S', 'H', 'R', 'T'}
)

// superblock is the decoded form of the first 4 KiB of a disk.
type superblock struct {
	Superblock
	journalID [16]byte
	geo       geometry
}

// encode writes the superblock:
//
//	  0   8  magic "IOMESHSB"
//	  8   2  format version      10 2  feature level
//	 12   1  mount type          13 3  zero
//	 16  16  cluster             32 16 disk id
//	 48  16  journal disk id     64 16 journal UUID
//	 80   8  mount counter
//	 88   8  disk size           96  8 journal offset   104 4 journal blocks  108 4 zero
//	112   8  meta offset        120  4 slots            124 4 zero
//	128   8  data offset        136  4 units            140 … zero
//	4092  4  CRC32C of bytes 0–4091
func (b *superblock) encode(p []byte) {
	le := binary.LittleEndian
	clear(p[:slotBytes])
	copy(p, superMagic[:])
	le.PutUint16(p[8:], b.FormatVersion)
	le.PutUint16(p[10:], uint16(b.Feature))
	p[12] = byte(b.MountType)
	copy(p[16:], b.Cluster[:])
	copy(p[32:], b.DiskID[:])
	copy(p[48:], b.JournalDisk[:])
	copy(p[64:], b.journalID[:])
	le.PutUint64(p[80:], b.MountCount)
	le.PutUint64(p[88:], uint64(b.geo.sizeBytes))
	le.PutUint64(p[96:], uint64(b.geo.journalOff))
	le.PutUint32(p[104:], b.geo.journalBlocks)
	le.PutUint64(p[112:], uint64(b.geo.metaOff))
	le.PutUint32(p[120:], b.geo.slots)
	le.PutUint64(p[128:], uint64(b.geo.dataOff))
	le.PutUint32(p[136:], b.geo.units)
	seal(p)
}

// seal writes the checksum into the last four bytes of a 4 KiB structure.
func seal(p []byte) {
	binary.LittleEndian.PutUint32(p[slotBytes-4:], block.CRC32C(p[:slotBytes-4]))
}

// sealed reports whether the checksum in the last four bytes of a 4 KiB structure holds.
func sealed(p []byte) bool {
	return binary.LittleEndian.Uint32(p[slotBytes-4:]) == block.CRC32C(p[:slotBytes-4])
}

// decodeSuper reads a superblock: ErrBlank for zeros, ErrForeign for anything else, ErrCorrupt, ErrNewerFormat.
func decodeSuper(p []byte) (superblock, error) {
	var b superblock
	le := binary.LittleEndian
	if [8]byte(p[:8]) != superMagic {
		for _, c := range p[:slotBytes] {
			if c != 0 {
				return b, ErrForeign
			}
		}
		return b, ErrBlank
	}
	if !sealed(p) {
		return b, fmt.Errorf("%w: superblock checksum", ErrCorrupt)
	}
	b.FormatVersion = le.Uint16(p[8:])
	b.Feature = block.Feature(le.Uint16(p[10:]))
	if b.FormatVersion > formatVersion || b.Feature > block.FeatureLevel {
		return b, fmt.Errorf("%w: format %d, feature level %d; this release knows %d and %d",
			ErrNewerFormat, b.FormatVersion, b.Feature, formatVersion, block.FeatureLevel)
	}
	if b.FormatVersion == 0 {
		return b, fmt.Errorf("%w: superblock of format 0", ErrCorrupt)
	}
	b.MountType = MountType(p[12])
	copy(b.Cluster[:], p[16:])
	copy(b.DiskID[:], p[32:])
	copy(b.JournalDisk[:], p[48:])
	copy(b.journalID[:], p[64:])
	b.MountCount = le.Uint64(p[80:])
	b.geo = geometry{
		sizeBytes: int64(le.Uint64(p[88:])), journalOff: int64(le.Uint64(p[96:])), journalBlocks: le.Uint32(p[104:]),
		metaOff: int64(le.Uint64(p[112:])), slots: le.Uint32(p[120:]),
		dataOff: int64(le.Uint64(p[128:])), units: le.Uint32(p[136:]),
	}
	b.SizeBytes = b.geo.sizeBytes
	if b.MountType == CacheWithJournal {
		return b, b.geo.checkAreas()
	}
	return b, b.geo.check()
}

// readSuper returns the better of the two superblocks. repair is set when one of them has to be written again.
func readSuper(d vdisk.Disk) (sb superblock, repair bool, err error) {
	buf := vdisk.Aligned(slotBytes)
	var found []superblock
	var errs []error
	read := func(off int64) error {
		if err := d.ReadAt(buf, off); err != nil {
			return err
		}
		b, err := decodeSuper(buf)
		if err != nil {
			return err
		}
		if b.geo.sizeBytes > d.SizeBytes() {
			return fmt.Errorf("%w: the disk has %d bytes, the store on it %d", ErrCorrupt, d.SizeBytes(), b.geo.sizeBytes)
		}
		found = append(found, b)
		return nil
	}
	if d.SizeBytes() < diskBytesMin {
		return sb, false, fmt.Errorf("%w: %d bytes are too few for a store", ErrForeign, d.SizeBytes())
	}
	errs = append(errs, read(0))
	// The copy lies at the end of the store, which is the end of the disk unless the disk has grown since.
	tail := d.SizeBytes()&^(slotBytes-1) - tailBytes
	if len(found) > 0 {
		tail = found[0].geo.tailOff()
	}
	errs = append(errs, read(tail))
	switch {
	case len(found) == 0:
		// The more telling of the two: corrupt or newer before foreign before blank.
		for _, kind := range []error{ErrNewerFormat, ErrCorrupt, ErrForeign, ErrBlank} {
			for _, e := range errs {
				if errors.Is(e, kind) {
					return sb, false, fmt.Errorf("disk %s: %w", d, e)
				}
			}
		}
		return sb, false, fmt.Errorf("disk %s: %w", d, errors.Join(errs...))
	case len(found) == 1:
		return found[0], true, nil
	}
	if found[0].DiskID != found[1].DiskID {
		return sb, false, fmt.Errorf("%w: disk %s: the superblocks at both ends are of different stores (%s, %s)", ErrForeign, d, found[0].DiskID, found[1].DiskID)
	}
	if found[1].MountCount > found[0].MountCount {
		return found[1], false, nil
	}
	return found[0], false, nil
}

// writeSuper writes both copies, one after the other, so that a power cut leaves one.
func writeSuper(d vdisk.Disk, b *superblock) error {
	buf := vdisk.Aligned(slotBytes)
	b.encode(buf)
	for _, off := range []int64{0, b.geo.tailOff()} {
		if err := d.WriteDurable(buf, off); err != nil {
			return fmt.Errorf("write superblock: %w", err)
		}
	}
	return nil
}

func probe(d vdisk.Disk) (Superblock, error) {
	sb, _, err := readSuper(d)
	return sb.Superblock, err
}

// root is a checkpoint: the state of the store after all journal batches before seq.
type root struct {
	checkpoint uint64 // counts checkpoints
	seq        uint64 // first journal batch that is not part of the checkpoint
	lap        uint32 // its lap
	pos        uint32 // its place, in blocks of the ring
	dirSlot    uint32 // first slot of the directory, 0 if empty
	dirCopy    uint32 // first slot of its second copy, 0 if there is none
	dirBytes   uint32
	dirCRC     uint32
	nextHandle uint32
}

// encode writes the root:
//
//	 0   8  magic "IOMESHRT"
//	 8   2  format version    10  2 feature level   12 4 zero
//	16  16  disk id
//	32   8  checkpoint        40  8 journal batch
//	48   4  journal lap       52  4 journal position
//	56   4  directory slot    60  4 directory bytes
//	64   4  directory CRC32C  68  4 next handle     72  4 directory slot of the second copy
//	76   …  zero
//	4092 4  CRC32C of bytes 0–4091
func (r *root) encode(p []byte, id block.DiskID) {
	le := binary.LittleEndian
	clear(p[:slotBytes])
	copy(p, rootMagic[:])
	le.PutUint16(p[8:], formatVersion)
	le.PutUint16(p[10:], uint16(block.FeatureLevel))
	copy(p[16:], id[:])
	le.PutUint64(p[32:], r.checkpoint)
	le.PutUint64(p[40:], r.seq)
	le.PutUint32(p[48:], r.lap)
	le.PutUint32(p[52:], r.pos)
	le.PutUint32(p[56:], r.dirSlot)
	le.PutUint32(p[60:], r.dirBytes)
	le.PutUint32(p[64:], r.dirCRC)
	le.PutUint32(p[68:], r.nextHandle)
	le.PutUint32(p[72:], r.dirCopy)
	seal(p)
}

// decodeRoot reads a root of the given disk; an error means there is none in this place.
func decodeRoot(p []byte, b *superblock) (root, error) {
	le := binary.LittleEndian
	switch {
	case [8]byte(p[:8]) != rootMagic || !sealed(p):
		return root{}, fmt.Errorf("%w: checkpoint root does not verify", ErrCorrupt)
	case le.Uint16(p[8:]) > formatVersion || block.Feature(le.Uint16(p[10:])) > block.FeatureLevel:
		return root{}, fmt.Errorf("%w: checkpoint root of format %d, feature level %d", ErrNewerFormat, le.Uint16(p[8:]), le.Uint16(p[10:]))
	case block.DiskID(p[16:32]) != b.DiskID:
		return root{}, fmt.Errorf("%w: checkpoint root of disk %s", ErrCorrupt, block.DiskID(p[16:32]))
	}
	r := root{
		checkpoint: le.Uint64(p[32:]), seq: le.Uint64(p[40:]), lap: le.Uint32(p[48:]), pos: le.Uint32(p[52:]),
		dirSlot: le.Uint32(p[56:]), dirBytes: le.Uint32(p[60:]), dirCRC: le.Uint32(p[64:]), nextHandle: le.Uint32(p[68:]),
		dirCopy: le.Uint32(p[72:]),
	}
	if r.pos >= b.geo.journalBlocks || r.dirSlot >= b.geo.slots || r.dirCopy >= b.geo.slots || int64(r.dirBytes) > int64(b.geo.slots)*slotBytes || r.nextHandle == 0 {
		return root{}, fmt.Errorf("%w: checkpoint root points outside the disk", ErrCorrupt)
	}
	return r, nil
}

// readRoot returns the newest root of the four places.
func readRoot(d vdisk.Disk, b *superblock) (root, error) {
	buf := vdisk.Aligned(slotBytes)
	var best root
	var errs []error
	ok := false
	for n := range uint64(2) {
		for _, off := range b.geo.rootOffs(n) {
			if err := d.ReadAt(buf, off); err != nil {
				errs = append(errs, err)
				continue
			}
			r, err := decodeRoot(buf, b)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if !ok || r.checkpoint > best.checkpoint {
				best, ok = r, true
			}
		}
	}
	if !ok {
		return root{}, fmt.Errorf("disk %s has no valid checkpoint: %w", d, errors.Join(errs...))
	}
	return best, nil
}
