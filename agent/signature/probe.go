package signature

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sort"
)

// Usage says what a signature means for the space behind it.
type Usage string

// What a signature can stand for.
const (
	Filesystem     Usage = "filesystem"
	RAID           Usage = "raid"
	Crypto         Usage = "crypto"
	PartitionTable Usage = "partition-table"
	Swap           Usage = "swap"
	Storage        Usage = "storage" // a disk of IOMesh
	Other          Usage = "other"
)

// KindIOMesh is the kind of a disk that IOMesh has formatted. Its UUID is that of the cluster.
const KindIOMesh = "iomesh"

// KindUnknown stands for content that is no known signature: the first or the last MiB is not zero.
const KindUnknown = "unknown"

// Found is one signature on a device.
type Found struct {
	Kind        string `json:"kind"`
	Usage       Usage  `json:"usage"`
	OffsetBytes uint64 `json:"offsetBytes"`
	Magic       string `json:"magic"` // hexadecimal
	UUID        string `json:"uuid,omitempty"`
	Label       string `json:"label,omitempty"`
	DiskID      string `json:"diskID,omitempty"` // of KindIOMesh
}

// Token names the signature in a plan or claim: kind, place, and UUID where it has one. Two equal tokens on one device mean that the
// signature has not changed in between.
func (f Found) Token() string {
	t := fmt.Sprintf("%s@%d", f.Kind, f.OffsetBytes)
	if f.UUID != "" {
		t += ":" + f.UUID
	}
	return t
}

// String is the form for people: kind and label.
func (f Found) String() string {
	if f.Label != "" {
		return fmt.Sprintf("%s %q", f.Kind, f.Label)
	}
	return f.Kind
}

// image reads a device piecewise and remembers the first error that is not the end of the device.
type image struct {
	r         io.ReaderAt
	sizeBytes int64
	err       error
}

// bytes returns n bytes at an offset, or nil when they are not all there.
func (im *image) bytes(at int64, n int) []byte {
	if at < 0 || at+int64(n) > im.sizeBytes || im.err != nil {
		return nil
	}
	b := make([]byte, n)
	if _, err := im.r.ReadAt(b, at); err != nil && !errors.Is(err, io.EOF) {
		im.err = fmt.Errorf("read %d bytes at %d: %w", n, at, err)
		return nil
	}
	return b
}

// Probe returns every signature on a device of the given size, ordered by place. An error means that some places could not be read, so
// that the device may hold more than what is returned; the caller must not take it for empty. A device without any known signature whose
// first or last MiB is not zero has one of KindUnknown.
func Probe(r io.ReaderAt, sizeBytes uint64) ([]Found, error) {
	if sizeBytes > 1<<62 {
		return nil, fmt.Errorf("size %d is no size of a device", sizeBytes)
	}
	im := &image{r: r, sizeBytes: int64(sizeBytes)}
	found := probeFixed(im)
	for _, p := range probers {
		found = append(found, p(im)...)
	}
	sort.Slice(found, func(i, j int) bool {
		if found[i].OffsetBytes != found[j].OffsetBytes {
			return found[i].OffsetBytes < found[j].OffsetBytes
		}
		return found[i].Kind < found[j].Kind
	})
	if len(found) == 0 && im.err == nil && sizeBytes > 0 {
		blank, err := Blank(r, sizeBytes)
		if err != nil {
			return nil, err
		}
		if !blank {
			found = []Found{{Kind: KindUnknown, Usage: Other}}
		}
	}
	return found, im.err
}

// EdgeBytes is how much at the start and at the end of a device is zero on a blank one.
const EdgeBytes = mib

// Blank reports whether the first and the last MiB are zero, which is what the storage service demands of a disk to format.
func Blank(r io.ReaderAt, sizeBytes uint64) (bool, error) {
	for _, span := range edges(sizeBytes) {
		buf := make([]byte, 64*kib)
		for at := span[0]; at < span[1]; {
			n := min(int64(len(buf)), span[1]-at)
			if _, err := r.ReadAt(buf[:n], at); err != nil && !errors.Is(err, io.EOF) {
				return false, fmt.Errorf("read %d bytes at %d: %w", n, at, err)
			}
			for _, b := range buf[:n] {
				if b != 0 {
					return false, nil
				}
			}
			at += n
		}
	}
	return true, nil
}

// edges are the half-open ranges of the first and the last MiB; one range if they meet.
func edges(sizeBytes uint64) [][2]int64 {
	size := int64(sizeBytes)
	if size <= 2*EdgeBytes {
		return [][2]int64{{0, size}}
	}
	return [][2]int64{{0, EdgeBytes}, {size - EdgeBytes, size}}
}

// ReadWriterAt is a device open for reading and writing.
type ReadWriterAt interface {
	io.ReaderAt
	io.WriterAt
}

// Erase removes the given signatures and then zeroes the first and the last MiB. Each signature is compared with the device once more
// directly before its bytes are overwritten. The caller syncs the device afterwards.
//
// The places outside the first and last MiB go first, see [Clear].
func Erase(d ReadWriterAt, sizeBytes uint64, named []Found) error {
	inEdge := func(f Found) bool {
		return f.OffsetBytes < EdgeBytes || f.OffsetBytes >= sizeBytes-min(sizeBytes, EdgeBytes)
	}
	for _, f := range named {
		if f.Kind == KindUnknown || inEdge(f) {
			continue
		}
		magic, err := hex.DecodeString(f.Magic)
		if err != nil || len(magic) == 0 {
			return fmt.Errorf("signature %s has no usable magic %q", f.Kind, f.Magic)
		}
		// Whole 4 KiB blocks, so that a device opened for direct I/O takes the write.
		at := int64(f.OffsetBytes) &^ 4095
		block := make([]byte, 8192)
		if rest := int64(sizeBytes) - at; rest < int64(len(block)) {
			block = block[:rest]
		}
		if _, err := d.ReadAt(block, at); err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("read signature %s at %d: %w", f.Kind, f.OffsetBytes, err)
		}
		in := block[int64(f.OffsetBytes)-at:]
		if len(in) < len(magic) || string(in[:len(magic)]) != string(magic) {
			return fmt.Errorf("signature %s at %d has changed since it was found", f.Kind, f.OffsetBytes)
		}
		clear(in[:len(magic)])
		if _, err := d.WriteAt(block, at); err != nil {
			return fmt.Errorf("erase signature %s at %d: %w", f.Kind, f.OffsetBytes, err)
		}
	}
	return Clear(d, sizeBytes)
}

// Clear zeroes the first and the last MiB, from the end of the device to its start, and the first 4 KiB last on their own: until then a
// disk still shows its primary superblock, so that an interrupted Clear is seen to be one.
func Clear(w io.WriterAt, sizeBytes uint64) error {
	spans := edges(sizeBytes)
	const head = 4 * kib
	zero := make([]byte, 64*kib)
	for i := len(spans) - 1; i >= 0; i-- {
		for hi := spans[i][1]; hi > spans[i][0]; {
			lo := max(hi-int64(len(zero)), spans[i][0])
			if lo == 0 && hi > head {
				lo = head
			}
			if _, err := w.WriteAt(zero[:hi-lo], lo); err != nil {
				return fmt.Errorf("zero %d bytes at %d: %w", hi-lo, lo, err)
			}
			hi = lo
		}
	}
	return nil
}
