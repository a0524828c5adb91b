package block

// Geometry. All are powers of two and part of the disk and wire formats.
const (
	// Size is the block size in bytes: the unit of checksum, stamp and replication.
	Size = 4096
	// SectorSize is the logical block size of every LUN in bytes (512e).
	SectorSize = 512
	// SectorsPerBlock is 8.
	SectorsPerBlock = Size / SectorSize
	// ExtentSizeBytes is the slice of a volume that is placed as one: 1 GiB.
	ExtentSizeBytes = 1 << 30
	// PerExtent is the number of blocks of an extent: 262,144.
	PerExtent = ExtentSizeBytes / Size
	// UnitBlocks is the number of blocks of an allocation unit (64 KiB).
	UnitBlocks = 16
	// UnitSizeBytes is the size of an allocation unit in bytes.
	UnitSizeBytes = UnitBlocks * Size
)

// No is the number of a block within its extent, in [0, PerExtent).
type No uint32

// Range is the half-open range of blocks [Start, Start+Count) within one extent.
type Range struct {
	Start No
	Count uint32
}

// End is the first block after the range.
func (r Range) End() No { return r.Start + No(r.Count) }

// Overlaps reports whether the two ranges share a block.
func (r Range) Overlaps(o Range) bool { return r.Start < o.End() && o.Start < r.End() }

// Contains reports whether b lies in r.
func (r Range) Contains(b No) bool { return b >= r.Start && b < r.End() }

// Valid reports whether the range is not empty and lies within an extent.
func (r Range) Valid() bool {
	return r.Count > 0 && uint64(r.Start)+uint64(r.Count) <= PerExtent
}

// SizeBytes is the length of the range in bytes.
func (r Range) SizeBytes() int { return int(r.Count) * Size }

// Extents is the number of extents a volume of sizeBytes has; the last may be used in part.
func Extents(sizeBytes uint64) uint32 {
	return uint32((sizeBytes + ExtentSizeBytes - 1) / ExtentSizeBytes)
}
