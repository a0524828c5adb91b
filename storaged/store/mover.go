package store

import (
	"fmt"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

const (
	// moverWindow is the part of the journal read at once, in blocks, and of the data written from it.
	moverWindow = 1024
	// moverDepth is the number of writes the mover has with the disk at a time. More would empty the journal hardly faster, and the journal's own writes
	// would wait behind them.
	moverDepth = 8
	// moverTell is the number of writes after which the committer is told how far the cycle is.
	moverTell = 32
	// writeRunMax bounds one of them, in blocks.
	writeRunMax = 256
)

// mover carries data from the journal to units, and from unit to unit.
type mover struct {
	s    *Store
	in   []byte
	out  []byte
	win  []move
	jobs []vdisk.Req
}

func newMover(s *Store) mover {
	return mover{s: s}
}

// run carries out the moves, in the order of the journal so that it is read in large pieces, then the shifts, whose sources
// may be targets of moves.
func (m *mover) run(d *destager) error {
	if m.in == nil && len(d.moves)+len(d.shifts) > 0 {
		m.in, m.out = vdisk.Aligned(moverWindow*slotBytes), vdisk.Aligned(moverWindow*slotBytes)
	}
	slices.SortFunc(d.moves, func(a, b move) int {
		switch {
		case a.src < b.src:
			return -1
		case a.src > b.src:
			return 1
		}
		return 0
	})
	total := max(len(d.moves)+len(d.shifts), 1)
	done := 0
	for rest := d.moves; len(rest) > 0; {
		// A window: blocks that lie within moverWindow of each other on the ring without wrapping.
		first := rest[0].src
		end := min(first+moverWindow, (first/m.s.ring.blocks+1)*m.s.ring.blocks)
		n := 1
		for n < len(rest) && rest[n].src < end {
			n++
		}
		if err := m.window(rest[:n], done, total); err != nil {
			return err
		}
		done += n
		rest = rest[n:]
		m.tell(done, total)
	}
	m.s.n.destaged.Add(uint64(len(d.moves)))
	for rest := d.shifts; len(rest) > 0; {
		// Later shifts may read what earlier ones wrote, hence one after the other, in groups that do not depend.
		n, blocks := 0, uint64(0)
		for n < len(rest) && blocks+rest[n].n <= moverWindow && !dependent(rest[:n], rest[n]) {
			blocks += rest[n].n
			n++
		}
		if err := m.shift(rest[:n], done, total); err != nil {
			return err
		}
		done += n
		rest = rest[n:]
		m.tell(done, total)
	}
	return nil
}

// dependent reports whether x reads what one of group writes. Groups are short.
func dependent(group []shift, x shift) bool {
	for _, g := range group {
		if x.src < g.dst+g.n && g.dst < x.src+x.n {
			return true
		}
	}
	return false
}

// tell lets the committer, if it is pacing writes, use what has been moved.
func (m *mover) tell(done, total int) {
	s := m.s
	s.qmu.Lock()
	s.progress = uint64(done) * progressMax / uint64(total)
	s.qcond.Broadcast()
	s.qmu.Unlock()
}

// window moves blocks that lie close together in the journal, after done of total.
func (m *mover) window(ms []move, done, total int) error {
	s := m.s
	first, last := ms[0].src, ms[len(ms)-1].src
	m.win = append(m.win[:0], ms...)
	slices.SortFunc(m.win, func(a, b move) int {
		switch {
		case a.dst < b.dst:
			return -1
		case a.dst > b.dst:
			return 1
		}
		return 0
	})
	if span := last - first + 1; span <= 4*uint64(len(ms)) {
		mark := s.io.begin(ioRead)
		err := s.jdisk.ReadAt(m.in[:span*slotBytes], s.journalOff(first))
		s.io.end(mark)
		if err != nil {
			return fmt.Errorf("read back the journal: %w", err)
		}
		for i, x := range m.win {
			copy(m.out[i*slotBytes:(i+1)*slotBytes], m.in[(x.src-first)*slotBytes:])
		}
	} else {
		for i, x := range m.win {
			if err := s.readLoc(locJournal|x.src, m.out[i*slotBytes:(i+1)*slotBytes]); err != nil {
				return fmt.Errorf("read back the journal: %w", err)
			}
		}
	}
	jobs := m.jobs[:0]
	for i := 0; i < len(m.win); {
		j := i + 1
		for j < len(m.win) && j-i < writeRunMax && m.win[j].dst == m.win[i].dst+uint64(j-i) {
			j++
		}
		jobs = append(jobs, vdisk.Req{Off: s.geo.blockOff(m.win[i].dst), Data: m.out[i*slotBytes : j*slotBytes]})
		i = j
	}
	return m.write(jobs, len(ms), done, total)
}

func (m *mover) shift(xs []shift, done, total int) error {
	s := m.s
	at := 0
	jobs := m.jobs[:0]
	for _, x := range xs {
		n := int(x.n) * block.Size
		p := m.out[at : at+n]
		if err := s.readDisk(p, s.geo.blockOff(x.src)); err != nil {
			// Unreadable blocks must not stop the rest: they are left as they are at the new place, where their checksum
			// tells them bad.
			s.n.readErrors.Add(1)
			clear(p)
			for k := range int(x.n) {
				_ = s.readDisk(p[k*block.Size:(k+1)*block.Size], s.geo.blockOff(x.src+uint64(k)))
			}
		}
		jobs = append(jobs, vdisk.Req{Off: s.geo.blockOff(x.dst), Data: p})
		at += n
	}
	return m.write(jobs, len(xs), done, total)
}

// write carries out jobs for n moves or shifts, several at a time, and returns the first error.
func (m *mover) write(jobs []vdisk.Req, n, done, total int) error {
	m.jobs = jobs
	s := m.s
	mark, told := s.io.begin(ioWrite), 0
	// A write begins a new request for who looks for stalls: a disk may be slow, as long as it gets on.
	progress := func(ended int) {
		if ended-told >= moverTell {
			told = ended
			m.tell(done+n*ended/len(jobs), total)
			s.io.end(mark)
			mark = s.io.begin(ioWrite)
		}
	}
	defer func() { s.io.end(mark) }()
	if b, ok := s.disk.(vdisk.Batcher); ok {
		return b.WriteBatch(jobs, moverDepth, progress)
	}
	for i, j := range jobs {
		progress(i)
		if err := s.disk.WriteAt(j.Data, j.Off); err != nil {
			return err
		}
	}
	return nil
}

// slotWriter gathers slots that lie side by side into large writes.
type slotWriter struct {
	s    *Store
	buf  []byte
	from uint32
	n    uint32
}

const slotWriterSlots = 256

func (w *slotWriter) reset(s *Store) {
	if w.buf == nil {
		w.s, w.buf = s, vdisk.Aligned(slotWriterSlots*slotBytes)
	}
	w.n = 0
}

// next returns the memory for a slot, valid until the next call.
func (w *slotWriter) next(slot uint32) ([]byte, error) {
	if w.n > 0 && (slot != w.from+w.n || w.n == slotWriterSlots) {
		if err := w.flush(); err != nil {
			return nil, err
		}
	}
	if w.n == 0 {
		w.from = slot
	}
	p := w.buf[w.n*slotBytes : (w.n+1)*slotBytes]
	w.n++
	return p, nil
}

func (w *slotWriter) flush() error {
	if w.n == 0 {
		return nil
	}
	n := w.n
	w.n = 0
	mark := w.s.io.begin(ioWrite)
	defer w.s.io.end(mark)
	return w.s.disk.WriteAt(w.buf[:n*slotBytes], w.s.geo.slotOff(w.from))
}
