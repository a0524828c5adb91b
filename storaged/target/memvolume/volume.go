// Package memvolume is a volume in memory, for tests, benchmarks and trials of the iSCSI target without a cluster.
//
// It completes commands in the goroutine that submits them, unless Hold is set: then they wait for Release, so that a test
// decides when, and in which order, they take effect.
package memvolume

import (
	"bytes"
	"context"
	"sync"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/target"
)

const page = 4096

// Volume implements target.Volume. Memory is allocated when it is first written.
type Volume struct {
	id   block.VolumeID
	prop target.Properties

	mu       sync.RWMutex
	size     uint64
	pages    [][]byte // nil: unmapped
	fail     func(*target.Command) target.Result
	hold     bool
	first    bool // only the first command is held
	held     []*target.Command
	arrived  *sync.Cond
	pool     pagebuf.Pool
	reserved []byte
	version  int64
}

// New returns a thin volume of size bytes, a multiple of 4096.
func New(id block.VolumeID, size uint64) *Volume {
	v := &Volume{id: id, size: size, pages: make([][]byte, size/page)}
	v.arrived = sync.NewCond(&v.mu)
	v.prop = target.Properties{Serial: id.Serial(), NAA: id.NAA(), Thin: true, AtomicMaxBytes: 256 << 10}
	return v
}

// LendReads makes it lend the memory of reads instead of filling the target's. Before use only.
func (v *Volume) LendReads() { v.prop.LendsReads = true }

// Physical512 makes it report physical blocks of 512 bytes. Before use only.
func (v *Volume) Physical512() { v.prop.Physical512 = true }

// Properties implements target.Volume.
func (v *Volume) Properties() target.Properties { return v.prop }

// LentBytes is how much memory is lent.
func (v *Volume) LentBytes() int64 { return v.pool.Used() }

// SizeBytes implements target.Volume.
func (v *Volume) SizeBytes() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.size
}

// Resize grows the volume.
func (v *Volume) Resize(size uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pages = append(v.pages, make([][]byte, size/page-uint64(len(v.pages)))...)
	v.size = size
}

// Fail makes commands end with what f returns, if that is not OK. nil ends it.
func (v *Volume) Fail(f func(*target.Command) target.Result) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fail = f
}

// Hold makes commands wait; Held counts those that do.
func (v *Volume) Hold() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.hold = true
}

// HoldFirst makes the next command wait, and no other.
func (v *Volume) HoldFirst() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.hold, v.first = true, true
}

// AwaitHeld returns when n commands wait.
func (v *Volume) AwaitHeld(n int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for len(v.held) < n {
		v.arrived.Wait()
	}
}

// Held is the number of commands that wait.
func (v *Volume) Held() int {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return len(v.held)
}

// Release carries out what waits, in order of arrival, and ends Hold.
func (v *Volume) Release() {
	v.mu.Lock()
	list := v.held
	v.held, v.hold = nil, false
	v.mu.Unlock()
	for _, c := range list {
		c.Complete(v.apply(c))
	}
}

// ReleaseWith completes what waits with a result of the test's own, without effect, and ends Hold.
func (v *Volume) ReleaseWith(r target.Result) {
	v.mu.Lock()
	list := v.held
	v.held, v.hold = nil, false
	v.mu.Unlock()
	for _, c := range list {
		c.Complete(r)
	}
}

// Submit implements target.Volume.
func (v *Volume) Submit(c *target.Command) {
	v.mu.RLock()
	hold := v.hold
	v.mu.RUnlock()
	if hold {
		v.mu.Lock()
		if v.hold {
			v.held = append(v.held, c)
			if v.first {
				v.hold, v.first = false, false
			}
			v.arrived.Broadcast()
			v.mu.Unlock()
			return
		}
		v.mu.Unlock()
	}
	c.Complete(v.apply(c))
}

func (v *Volume) apply(c *target.Command) target.Result {
	if c.Op == target.OpRead || c.Op == target.OpVerify || c.Op == target.OpMapStatus {
		v.mu.RLock()
		defer v.mu.RUnlock()
	} else {
		v.mu.Lock()
		defer v.mu.Unlock()
	}
	if v.fail != nil {
		if r := v.fail(c); r.Kind != target.OK {
			return r
		}
	}
	if c.Offset > v.size || c.Length > v.size-c.Offset {
		return target.Result{Kind: target.OutOfRange}
	}
	switch c.Op {
	case target.OpRead:
		if v.prop.LendsReads {
			buf := v.pool.Get(int(c.Length))
			c.Lend(buf.B, buf)
		}
		v.read(c.Offset, c.Data)
	case target.OpWrite:
		v.write(c.Offset, c.Data)
	case target.OpUnmap, target.OpWriteZeroes:
		v.zero(c.Offset, c.Length)
	case target.OpCompareAndWrite:
		now := make([]byte, c.Length)
		v.read(c.Offset, now)
		if want := c.Data[:c.Length]; !bytes.Equal(now, want) {
			i := 0
			for now[i] == want[i] {
				i++
			}
			return target.Result{Kind: target.Miscompare, Offset: uint64(i)}
		}
		v.write(c.Offset, c.Data[c.Length:])
	case target.OpOrWrite:
		now := make([]byte, c.Length)
		v.read(c.Offset, now)
		for i, b := range c.Data {
			now[i] |= b
		}
		v.write(c.Offset, now)
	case target.OpMapStatus:
		mapped := v.pages[c.Offset/page] != nil
		end := c.Offset/page + 1
		for end*page < c.Offset+c.Length && (v.pages[end] != nil) == mapped {
			end++
		}
		return target.Result{Mapped: mapped, Offset: min(end*page-c.Offset, c.Length)}
	}
	return target.Result{}
}

func (v *Volume) read(at uint64, b []byte) {
	for len(b) > 0 {
		in := at % page
		n := min(uint64(len(b)), page-in)
		if p := v.pages[at/page]; p != nil {
			copy(b[:n], p[in:])
		} else {
			clear(b[:n])
		}
		b, at = b[n:], at+n
	}
}

func (v *Volume) write(at uint64, b []byte) {
	for len(b) > 0 {
		in := at % page
		n := min(uint64(len(b)), page-in)
		if v.pages[at/page] == nil {
			v.pages[at/page] = make([]byte, page)
		}
		copy(v.pages[at/page][in:], b[:n])
		b, at = b[n:], at+n
	}
}

func (v *Volume) zero(at, length uint64) {
	for length > 0 {
		in := at % page
		n := min(length, page-in)
		if p := v.pages[at/page]; p != nil {
			if n == page {
				v.pages[at/page] = nil
			} else {
				clear(p[in : in+n])
			}
		}
		at, length = at+n, length-n
	}
}

// LoadReservations implements target.Volume.
func (v *Volume) LoadReservations(context.Context) ([]byte, int64, error) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return bytes.Clone(v.reserved), v.version, nil
}

// SaveReservations implements target.Volume.
func (v *Volume) SaveReservations(_ context.Context, data []byte, version int64) (int64, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if version != v.version {
		return 0, target.ErrReservationsChanged
	}
	v.version++
	v.reserved = bytes.Clone(data)
	return v.version, nil
}
