package suite

import (
	"fmt"
	"os"
	"path/filepath"
)

// sparseDisk makes the file of a disk for which there is no room, with those parts written that are used first: the journal, the beginning of the place
// for maps, and the beginning of that for data. Elsewhere a write would have the filesystem allocate, which is not what is to be measured.
func sparseDisk(path string, sizeBytes int64) (err error) {
	const (
		journal = 1 << 30
		maps    = 3 << 30
		data    = 3 << 30
		// Of the disk's size, 1/64 is for maps.
		mapsShare = 64
	)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if err := f.Truncate(sizeBytes); err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	zeros := make([]byte, 4<<20)
	for _, part := range []struct{ from, to int64 }{{0, journal + maps}, {journal + sizeBytes/mapsShare - 64<<20, journal + sizeBytes/mapsShare + data}} {
		for off := part.from; off < min(part.to, sizeBytes); off += int64(len(zeros)) {
			if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), sizeBytes-off)], off); err != nil {
				return fmt.Errorf("disk %s: %w", path, err)
			}
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	return nil
}
