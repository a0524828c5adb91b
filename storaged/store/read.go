package store

import (
	"fmt"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// readScratch is what a read needs beside the caller's memory.
type readScratch struct {
	ents  [pageBlocks]ovEntry
	again [1]ovEntry
	parts []vdisk.Request
	all   []*vdisk.Request
}

// readTries bounds how often a block that does not verify is looked up again. Data moves under a reader: from the journal to
// its place, to another unit; then the second look-up gives another place.
const readTries = 16

func (s *Store) read(e block.ExtentID, view block.SnapSeq, r block.Range, buf []byte, info []BlockInfo) error {
	if !r.Valid() || len(buf) < r.SizeBytes() || len(info) < int(r.Count) {
		return fmt.Errorf("%w: read of blocks [%d,%d) of %s into %d bytes", ErrInvalid, r.Start, r.End(), e, len(buf))
	}
	s.n.reads.Add(1)
	s.n.readBytes.Add(uint64(r.SizeBytes()))
	sc := s.scratch.Get().(*readScratch)
	defer s.scratch.Put(sc)
	for at := r.Start; at < r.End(); {
		end := min(r.End(), (at/pageBlocks+1)*pageBlocks)
		o := at - r.Start
		if err := s.readPart(sc, e, view, at, buf[int(o)*block.Size:int(end-r.Start)*block.Size], info[o:end-r.Start]); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// find looks blocks of one page up, loading the page if it has to.
func (s *Store) find(e block.ExtentID, view block.SnapSeq, start block.No, out []ovEntry, buf []byte) (block.Seeder, error) {
	for {
		s.mu.RLock()
		rep := s.replicas[e]
		if rep == nil {
			s.mu.RUnlock()
			return block.Seeder{}, fmt.Errorf("%w: %s", ErrNoReplica, e)
		}
		l := rep.view(view)
		if l == nil {
			clear(out)
			s.mu.RUnlock()
			return rep.seeder, nil
		}
		ref, ok := s.lookup(l, start, out)
		if ok {
			s.takeInflight(out, buf)
		}
		seeder := rep.seeder
		s.mu.RUnlock()
		if ok {
			return seeder, nil
		}
		s.loadPage(ref)
	}
}

// inMemory marks an entry whose data takeInflight has copied.
const inMemory = 1 << 58

// takeInflight copies what is in the batch being written.
func (s *Store) takeInflight(ents []ovEntry, buf []byte) {
	if s.inflight.to == s.inflight.from {
		return
	}
	for i := range ents {
		if ents[i].loc&(locWritten|locJournal|locBad) != locWritten|locJournal {
			continue
		}
		if at := ents[i].loc & locMask; at >= s.inflight.from && at < s.inflight.to {
			off := int(at-s.inflight.from) * block.Size
			copy(buf[i*block.Size:(i+1)*block.Size], s.inflight.data[off:])
			ents[i].loc |= inMemory
		}
	}
}

// readPart reads blocks of one page.
func (s *Store) readPart(sc *readScratch, e block.ExtentID, view block.SnapSeq, start block.No, buf []byte, info []BlockInfo) error {
	n := len(info)
	ents := sc.ents[:n]
	seeder, err := s.find(e, view, start, ents, buf)
	if err != nil {
		return err
	}
	together := s.readTogether(sc, ents, buf)
	for i := 0; i < n; {
		x := ents[i]
		if x.state() != Written {
			j := i
			for j < n && ents[j].state() != Written {
				info[j] = BlockInfo{Stamp: block.Stamp(ents[j].stamp), State: ents[j].state()}
				j++
			}
			clear(buf[i*block.Size : j*block.Size])
			i = j
			continue
		}
		j := i + 1
		if x.loc&inMemory == 0 {
			// One request for all that lies in one piece on the disk.
			for j < n && ents[j].loc == x.loc+uint64(j-i) {
				j++
			}
			var err error
			if !together {
				err = s.readLoc(x.loc, buf[i*block.Size:j*block.Size])
			}
			if err != nil {
				// Perhaps one block of them: try each alone below.
				s.n.readErrors.Add(1)
				for k := i; k < j; k++ {
					s.readBlock(sc, seeder, e, view, start+block.No(k), ents[k], buf[k*block.Size:(k+1)*block.Size], &info[k])
				}
				i = j
				continue
			}
		}
		for k := i; k < j; k++ {
			p := buf[k*block.Size : (k+1)*block.Size]
			if seeder.Sum(start+block.No(k), p) == ents[k].crc {
				info[k] = BlockInfo{Stamp: block.Stamp(ents[k].stamp), Sum: ents[k].crc, State: Written}
				continue
			}
			s.readBlock(sc, seeder, e, view, start+block.No(k), ents[k], p, &info[k])
		}
		i = j
	}
	return nil
}

// readTogether reads all that entries of one page name at the same time, where the disk can. False: nothing was read, or not everything.
func (s *Store) readTogether(sc *readScratch, ents []ovEntry, buf []byte) bool {
	if s.async == nil || s.jdisk != s.disk || !vdisk.IsAligned(buf) {
		return false
	}
	sc.parts = s.partsOf(sc.parts[:0], ents, buf)
	sc.all = sc.all[:0]
	for i := range sc.parts {
		sc.all = append(sc.all, &sc.parts[i])
	}
	t := time.Now()
	mark := s.io.begin(ioRead)
	err := s.async.ReadAll(sc.all)
	s.io.end(mark)
	clear(sc.parts)
	if err == nil {
		average(&s.n.readNanos, time.Since(t))
	}
	return err == nil
}

// partsOf appends a read for each piece that lies together on the disk. What is in memory, or unwritten, needs none.
func (s *Store) partsOf(parts []vdisk.Request, ents []ovEntry, buf []byte) []vdisk.Request {
	for i := 0; i < len(ents); {
		x := ents[i]
		j := i + 1
		if x.state() == Written && x.loc&inMemory == 0 {
			for j < len(ents) && ents[j].loc == x.loc+uint64(j-i) {
				j++
			}
			off := s.geo.blockOff(x.loc & locMask)
			if x.loc&locJournal != 0 {
				off = s.journalOff(x.loc & locMask)
			}
			parts = append(parts, vdisk.Request{Off: off, Data: buf[i*block.Size : j*block.Size]})
		}
		i = j
	}
	return parts
}

// readLoc reads from the place an entry names.
func (s *Store) readLoc(loc uint64, p []byte) error {
	if loc&locJournal != 0 {
		mark := s.io.begin(ioRead)
		defer s.io.end(mark)
		return s.jdisk.ReadAt(p, s.journalOff(loc&locMask))
	}
	return s.readDisk(p, s.geo.blockOff(loc&locMask))
}

// journalOff is where an absolute block of the journal lies.
func (s *Store) journalOff(abs uint64) int64 {
	return s.geo.journalOff + int64(abs%uint64(s.geo.journalBlocks))*slotBytes
}

func (s *Store) readDisk(p []byte, off int64) error {
	t := time.Now()
	mark := s.io.begin(ioRead)
	err := s.disk.ReadAt(p, off)
	s.io.end(mark)
	average(&s.n.readNanos, time.Since(t))
	return err
}

// readBlock reads one block whose first read gave an error or did not verify. It is bad when it does not verify although it
// has not moved.
func (s *Store) readBlock(sc *readScratch, seeder block.Seeder, e block.ExtentID, view block.SnapSeq, b block.No, old ovEntry, p []byte, info *BlockInfo) {
	for try := range readTries {
		one := sc.again[:]
		if _, err := s.find(e, view, b, one, p); err != nil {
			break
		}
		x := one[0]
		if x.state() != Written {
			clear(p)
			*info = BlockInfo{Stamp: block.Stamp(x.stamp), State: x.state()}
			return
		}
		moved := x.loc != old.loc || x.crc != old.crc
		old = x
		var err error
		if x.loc&inMemory == 0 {
			err = s.readLoc(x.loc, p)
		}
		if err == nil && seeder.Sum(b, p) == x.crc {
			*info = BlockInfo{Stamp: block.Stamp(x.stamp), Sum: x.crc, State: Written}
			return
		}
		if err != nil {
			s.n.readErrors.Add(1)
		}
		if !moved && try > 0 {
			break
		}
	}
	s.n.checksumErrors.Add(1)
	clear(p)
	*info = BlockInfo{Stamp: block.Stamp(old.stamp), Sum: old.crc, State: Bad}
}
