package vdisk

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Req is one write of a batch.
type Req struct {
	Off  int64
	Data []byte
}

// Batcher is a Disk that can take many scattered writes with few system calls.
type Batcher interface {
	// WriteBatch is WriteAt for each request, up to depth of them with the disk at a time. Before it hands some to the disk it calls progress, in its
	// own goroutine, with the number of those that have ended. The first error is returned when all have ended; which of them arrived is then not
	// known.
	WriteBatch(reqs []Req, depth int, progress func(ended int)) error
}

// WriteBatch implements Batcher. Without asynchronous I/O it writes one after the other.
func (r *Real) WriteBatch(reqs []Req, depth int, progress func(ended int)) error {
	for _, q := range reqs {
		if err := r.check(q.Data, q.Off); err != nil {
			return err
		}
		if !r.parks(q.Data) {
			return r.writeEach(reqs, progress)
		}
	}
	list := make([]Request, len(reqs))
	all := make([]*Request, len(reqs))
	for i, q := range reqs {
		list[i].Off, list[i].Data = q.Off, q.Data
		all[i] = &list[i]
	}
	return r.async.doAll(all, waitWrite, max(1, depth), progress)
}

// outcome judges one completed write.
func (r *Real) outcome(q *Req, res int64) error {
	var err error
	switch {
	case res == int64(len(q.Data)):
		return nil
	case res >= 0:
		err = io.ErrShortWrite
	default:
		err = unix.Errno(-res)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = fmt.Errorf("%w: %w", ErrNoSpace, err)
		}
	}
	return fmt.Errorf("write %d bytes at %d of %s: %w", len(q.Data), q.Off, r.path, err)
}

func (r *Real) writeEach(reqs []Req, progress func(ended int)) error {
	for i, q := range reqs {
		progress(i)
		if err := r.WriteAt(q.Data, q.Off); err != nil {
			return err
		}
	}
	return nil
}
