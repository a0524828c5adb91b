package initiator

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"sync"

	"github.com/iomesh/iomesh/internal/scsi"
)

// pieceBytes is the size of the requests that ReadAt and WriteAt are cut into.
const pieceBytes = 1 << 20

// Do runs one request and returns its error. When ctx ends while the request waits for a connection, it is taken back; one that is in
// progress at the target is waited for, since its buffer is in use.
func (s *Session) Do(ctx context.Context, r *Request) error {
	done := make(chan struct{})
	r.Done = func(*Request) { close(done) }
	s.Submit(r)
	return s.await(ctx, r, done)
}

func (s *Session) await(ctx context.Context, r *Request, done <-chan struct{}) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-done:
			return r.Err
		case <-ctx.Done():
			if s.takeBack(r) {
				return ctx.Err()
			}
			select {
			case <-done:
				return r.Err
			case <-changed:
			}
		}
	}
}

// takeBack removes a request that is not in progress from the queue.
func (s *Session) takeBack(r *Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var prev *Request
	for q := s.queue.head; q != nil; prev, q = q, q.next {
		if q != r {
			continue
		}
		if prev == nil {
			s.queue.head = q.next
		} else {
			prev.next = q.next
		}
		if s.queue.tail == q {
			s.queue.tail = prev
		}
		q.next = nil
		return true
	}
	return false
}

// ReadAt fills p from a byte offset. Both are multiples of 512.
func (s *Session) ReadAt(ctx context.Context, p []byte, offset uint64) error {
	return s.pieces(ctx, Read, p, offset)
}

// WriteAt stores p at a byte offset. Both are multiples of 512. It returns when the data are durable.
func (s *Session) WriteAt(ctx context.Context, p []byte, offset uint64) error {
	return s.pieces(ctx, Write, p, offset)
}

func (s *Session) pieces(ctx context.Context, op Op, p []byte, offset uint64) error {
	if len(p) <= pieceBytes {
		if len(p) == 0 {
			return nil
		}
		return s.wrap(s.Do(ctx, &Request{Op: op, Data: p, Offset: offset}), op, offset, uint64(len(p)))
	}
	var wg sync.WaitGroup
	errs := make([]error, (len(p)+pieceBytes-1)/pieceBytes)
	room := make(chan struct{}, 16)
	for i := range errs {
		room <- struct{}{}
		wg.Go(func() {
			at := i * pieceBytes
			errs[i] = s.Do(ctx, &Request{Op: op, Data: p[at:min(at+pieceBytes, len(p))], Offset: offset + uint64(at)})
			<-room
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return s.wrap(err, op, offset, uint64(len(p)))
		}
	}
	return nil
}

func (s *Session) wrap(err error, op Op, offset, length uint64) error {
	if err == nil {
		return nil
	}
	names := map[Op]string{Read: "read", Write: "write", Unmap: "unmap", WriteZeroes: "write zeroes to", Flush: "flush"}
	return fmt.Errorf("%s %d bytes at %d of %s: %w", names[op], length, offset, s.opt.Target, err)
}

// Unmap gives a range back; it reads as zeros afterwards.
func (s *Session) Unmap(ctx context.Context, offset, length uint64) error {
	return s.ranges(ctx, Unmap, offset, length)
}

// WriteZeroes makes a range read as zeros.
func (s *Session) WriteZeroes(ctx context.Context, offset, length uint64) error {
	return s.ranges(ctx, WriteZeroes, offset, length)
}

func (s *Session) ranges(ctx context.Context, op Op, offset, length uint64) error {
	for at := uint64(0); at < length; at += op.rangeMax() {
		n := min(length-at, op.rangeMax())
		if err := s.Do(ctx, &Request{Op: op, Offset: offset + at, Length: n}); err != nil {
			return s.wrap(err, op, offset, length)
		}
	}
	return nil
}

// Flush returns when every write acknowledged before is durable.
func (s *Session) Flush(ctx context.Context) error {
	return s.wrap(s.Do(ctx, &Request{Op: Flush}), Flush, 0, 0)
}

// Command runs a raw command. Data are sent if out, otherwise filled; n is how many bytes were filled.
func (s *Session) Command(ctx context.Context, cdb []byte, data []byte, out bool) (n int, err error) {
	r := &Request{Op: Raw, Data: data, DataOut: out}
	copy(r.CDB[:], cdb)
	err = s.Do(ctx, r)
	return len(data) - max(r.Residual, 0), err
}

// Capacity is the answer to READ CAPACITY (16).
type Capacity struct {
	SizeBytes               uint64
	BlockBytes              uint32
	PhysicalBlockBytes      uint32
	Thin, UnmappedReadsZero bool
}

// ReadCapacity asks for the size of the unit.
func (s *Session) ReadCapacity(ctx context.Context) (Capacity, error) {
	var cdb [16]byte
	cdb[0], cdb[1], cdb[13] = scsi.OpServiceIn16, 0x10, 32
	b := make([]byte, 32)
	if err := s.retryAttention(ctx, cdb[:], b); err != nil {
		return Capacity{}, fmt.Errorf("read capacity of %s: %w", s.opt.Target, err)
	}
	c := Capacity{BlockBytes: binary.BigEndian.Uint32(b[8:])}
	c.SizeBytes = (binary.BigEndian.Uint64(b) + 1) * uint64(c.BlockBytes)
	c.PhysicalBlockBytes = c.BlockBytes << (b[13] & 0xf)
	c.Thin, c.UnmappedReadsZero = b[14]&0x80 != 0, b[14]&0x40 != 0
	return c, nil
}

// retryAttention runs a command that asks, again if a unit attention comes first.
func (s *Session) retryAttention(ctx context.Context, cdb, data []byte) (err error) {
	for range triesMax {
		r := &Request{Op: Raw, Data: data}
		copy(r.CDB[:], cdb)
		err = s.Do(ctx, r)
		if err == nil || r.Sense.Key != scsi.UnitAttention {
			return err
		}
	}
	return err
}

// Inquiry returns standard INQUIRY data, or with a page that VPD page.
func (s *Session) Inquiry(ctx context.Context, vpd bool, page byte) ([]byte, error) {
	b := make([]byte, 1024)
	cdb := []byte{scsi.OpInquiry, 0, page, byte(len(b) >> 8), byte(len(b) & 0xff), 0}
	if vpd {
		cdb[1] = 1
	}
	n, err := s.Command(ctx, cdb, b, false)
	if err != nil {
		return nil, fmt.Errorf("inquiry (page %#02x) of %s: %w", page, s.opt.Target, err)
	}
	return b[:n], nil
}

// Serial is the unit serial number (VPD page 80h).
func (s *Session) Serial(ctx context.Context) (string, error) {
	b, err := s.Inquiry(ctx, true, 0x80)
	if err != nil {
		return "", err
	}
	if len(b) < 4 || len(b) < 4+int(b[3]) {
		return "", fmt.Errorf("serial number page of %s has %d bytes", s.opt.Target, len(b))
	}
	return string(b[4 : 4+int(b[3])]), nil
}

// lookAtSize asks for the capacity, aside, and reports it if it is not the one known.
func (s *Session) lookAtSize() {
	if s.opt.OnResize == nil || s.ctx.Err() != nil {
		return
	}
	s.wg.Go(func() {
		c, err := s.ReadCapacity(s.ctx)
		if err != nil {
			if s.ctx.Err() == nil {
				s.opt.Log.Warn("size could not be read", slog.String("target", s.opt.Target), slog.Any("error", err))
			}
			return
		}
		s.mu.Lock()
		changed := s.size != c.SizeBytes
		s.size = c.SizeBytes
		s.mu.Unlock()
		if changed {
			s.opt.OnResize(c.SizeBytes)
		}
	})
}
