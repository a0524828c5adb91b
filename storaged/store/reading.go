package store

import (
	"errors"
	"sync"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// Reading is a read that goes on without a goroutine. The fields before Completer are the caller's to set; it is the store's from StartRead until
// the completion call and may be used again after.
type Reading struct {
	Extent block.ExtentID
	View   block.SnapSeq
	Range  block.Range
	// Buf (Range.SizeBytes() bytes at a page boundary) and Info (Range.Count entries) are filled as by Read.
	Buf       []byte
	Info      []BlockInfo
	Completer ReadCompleter
	// User is the caller's.
	User any
	// Err is the outcome: nil, or ErrReadAgain.
	Err error

	seeder block.Seeder
	ents   []ovEntry
	parts  []vdisk.Request
	left   int // parts not ended; the goroutine of the disk's
	failed bool
	begun  time.Time
	mark   int
}

// ErrReadAgain is the outcome of a Reading that needs more than one look at the disk: the data has moved, does not verify, or could not be read
// without waiting. Read gives the answer.
var ErrReadAgain = errors.New("read it again with Read")

// ReadCompleter is told of readings that have ended together. ReadsComplete must not block nor keep the slice.
type ReadCompleter interface{ ReadsComplete(done []*Reading) }

var readingsPool = sync.Pool{New: func() any { return new([]*Reading) }}

// readingMax is the number of blocks up to which a read is begun in the goroutine of whoever asks: above it, checking the checksums would hold up
// the reads that end at the same time.
const readingMax = 16

// StartRead begins a read, which the next Wake hands to the disk, or says false: Read can do it. It never waits for the disk. The completion
// call may come before it returns. Whoever closes the store waits first for the readings begun.
func (s *Store) StartRead(r *Reading) bool {
	n := int(r.Range.Count)
	if s.async == nil || s.jdisk != s.disk || n > readingMax || !r.Range.Valid() || len(r.Buf) < r.Range.SizeBytes() || len(r.Info) < n ||
		uint32(r.Range.Start)/pageBlocks != uint32(r.Range.End()-1)/pageBlocks || !vdisk.IsAligned(r.Buf) {
		return false
	}
	if cap(r.ents) < n {
		r.ents = make([]ovEntry, n)
	}
	r.ents = r.ents[:n]
	s.mu.RLock()
	rep := s.replicas[r.Extent]
	if rep == nil {
		s.mu.RUnlock()
		return false
	}
	r.seeder = rep.seeder
	if l := rep.view(r.View); l == nil {
		clear(r.ents)
	} else if _, ok := s.lookup(l, r.Range.Start, r.ents); !ok {
		s.mu.RUnlock()
		return false
	} else {
		s.takeInflight(r.ents, r.Buf)
	}
	s.mu.RUnlock()

	r.parts, r.failed, r.Err = s.partsOf(r.parts[:0], r.ents, r.Buf), false, nil
	s.n.reads.Add(1)
	s.n.readBytes.Add(uint64(r.Range.SizeBytes()))
	if len(r.parts) == 0 {
		s.verify(r)
		r.Completer.ReadsComplete([]*Reading{r})
		return true
	}
	r.left = len(r.parts)
	r.begun = time.Now()
	r.mark = s.io.begin(ioRead)
	for i := range r.parts {
		r.parts[i].Owner, r.parts[i].User = s, r
		if !s.async.TryRead(&r.parts[i]) {
			if i == 0 {
				s.io.end(r.mark)
				return false
			}
			// Some are begun: their end, which comes after the Wake, ends the reading.
			s.tooMany(r, len(r.parts)-i)
			break
		}
	}
	return true
}

// tooMany takes the last n parts off a reading that found no room for them. The others cannot have ended for good: left still counts n.
func (s *Store) tooMany(r *Reading, n int) {
	s.readMu.Lock()
	r.failed = true
	r.left -= n
	last := r.left == 0
	s.readMu.Unlock()
	if last {
		s.finishReading(r)
		r.Completer.ReadsComplete([]*Reading{r})
	}
}

// ReadsEnded implements vdisk.ReadsEnded.
func (s *Store) ReadsEnded(parts []*vdisk.Request) {
	done := readingsPool.Get().(*[]*Reading)
	s.readMu.Lock()
	for _, p := range parts {
		r := p.User.(*Reading)
		if p.Err != nil {
			r.failed = true
		}
		if r.left--; r.left == 0 {
			*done = append(*done, r)
		}
	}
	s.readMu.Unlock()
	list := *done
	for _, r := range list {
		s.finishReading(r)
	}
	for i := 0; i < len(list); {
		j := i + 1
		for j < len(list) && list[j].Completer == list[i].Completer {
			j++
		}
		list[i].Completer.ReadsComplete(list[i:j])
		i = j
	}
	clear(list)
	*done = list[:0]
	readingsPool.Put(done)
}

// finishReading judges a reading whose parts have all ended.
func (s *Store) finishReading(r *Reading) {
	s.io.end(r.mark)
	clear(r.parts)
	if r.failed {
		r.Err = ErrReadAgain
		return
	}
	average(&s.n.readNanos, time.Since(r.begun))
	s.verify(r)
}

// verify compares what was read with the checksums and fills in Info.
func (s *Store) verify(r *Reading) {
	for i, x := range r.ents {
		p := r.Buf[i*block.Size : (i+1)*block.Size]
		if x.state() != Written {
			clear(p)
			r.Info[i] = BlockInfo{Stamp: block.Stamp(x.stamp), State: x.state()}
			continue
		}
		if r.seeder.Sum(r.Range.Start+block.No(i), p) != x.crc {
			r.Err = ErrReadAgain
			return
		}
		r.Info[i] = BlockInfo{Stamp: block.Stamp(x.stamp), Sum: x.crc, State: Written}
	}
}
