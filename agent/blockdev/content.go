package blockdev

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/agent/signature"
)

// DevPath is where a device is opened: below the scanner's device root, which may be a mount of the machine's /dev.
func (s *Scanner) DevPath(d *Device) string {
	return filepath.Join(root(s.DevDir, "/dev"), strings.TrimPrefix(d.Path, "/dev/"))
}

// readContent fills in the signatures of a device. A device that does not answer in time gets a ReadError instead, and is not read again
// before the first look has returned: a hanging disk costs one goroutine, not one each scan.
func (s *Scanner) readContent(ctx context.Context, d *Device) {
	key := fmt.Sprintf("%s/%d", d.KernelName, d.DiskSeq)
	s.mu.Lock()
	if s.reading == nil {
		s.reading = map[string]bool{}
	}
	hanging := s.reading[key]
	s.reading[key] = true
	s.mu.Unlock()
	if hanging {
		d.ReadError = "an earlier read has not returned yet"
		return
	}
	type answer struct {
		found []signature.Found
		err   error
	}
	done := make(chan answer, 1)
	path, sizeBytes := s.DevPath(d), d.SizeBytes
	go func() {
		found, err := probeFile(path, sizeBytes)
		s.mu.Lock()
		delete(s.reading, key)
		s.mu.Unlock()
		done <- answer{found, err}
	}()
	timeout := s.ReadTimeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case a := <-done:
		d.Signatures = a.found
		if a.err != nil {
			d.ReadError = a.err.Error()
		}
	case <-timer.C:
		d.ReadError = fmt.Sprintf("no answer to a read within %s", timeout)
	case <-ctx.Done():
		d.ReadError = ctx.Err().Error()
	}
}

func probeFile(path string, sizeBytes uint64) ([]signature.Found, error) {
	// Direct I/O: the storage service writes past the page cache, which would show what was there before.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT|unix.O_NONBLOCK, 0)
	if err != nil {
		f, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return signature.Probe(Aligned(f), sizeBytes)
}

// alignBytes suits every device's logical block.
const alignBytes = 4096

// Aligned makes reads of any place and length out of whole, aligned blocks, as direct I/O demands.
func Aligned(r io.ReaderAt) io.ReaderAt { return alignedReader{r} }

type alignedReader struct{ r io.ReaderAt }

func (a alignedReader) ReadAt(p []byte, off int64) (int, error) {
	lo := off &^ (alignBytes - 1)
	hi := (off + int64(len(p)) + alignBytes - 1) &^ (alignBytes - 1)
	buf := AlignedBuffer(int(hi - lo))
	n, err := a.r.ReadAt(buf, lo)
	if n < int(off-lo) {
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	n = copy(p, buf[off-lo:n])
	if n == len(p) {
		return n, nil
	}
	if err == nil {
		err = io.EOF
	}
	return n, err
}
