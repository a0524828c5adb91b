package stacksim

import (
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

// machineDisk is a disk in a node. It outlives the processes that use it; a power cut leaves it with what was flushed, and any part of the rest.
type machineDisk struct {
	name string

	mu      sync.Mutex
	rng     *rand.Rand
	sim     *vdisk.Sim
	using   *diskHandle
	speed   [2]time.Duration // of one request, from the range [lo, hi)
	held    bool             // requests do not come back
	resume  chan struct{}    // closed when they do
	failing [3]bool          // by vdisk.Op
	broken  bool             // failed for good: replaced before the end
}

func newMachineDisk(name string, sizeBytes int64, rng *rand.Rand) *machineDisk {
	return &machineDisk{name: name, rng: rng, sim: vdisk.NewSim(name, sizeBytes), speed: diskFast, resume: make(chan struct{})}
}

// Speeds of a disk.
var (
	diskFast = [2]time.Duration{20 * time.Microsecond, 300 * time.Microsecond}
	diskSlow = [2]time.Duration{10 * time.Millisecond, 120 * time.Millisecond}
)

// open gives the disk to a process.
func (d *machineDisk) open() vdisk.Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.using = &diskHandle{d: d, sim: d.sim}
	return d.using
}

// release ends the use of the disk by a process that dies. With the power lost, what was not flushed is torn.
func (d *machineDisk) release(powerLost bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if h := d.using; h != nil {
		h.mu.Lock()
		h.dead = true
		h.mu.Unlock()
		d.using = nil
	}
	if powerLost {
		d.sim.Crash(d.rng.Uint64())
		d.sim = d.sim.Clone()
	}
	d.continueLocked()
}

// hold keeps requests from coming back, or lets them.
func (d *machineDisk) hold(on bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if on {
		d.held = true
		return
	}
	d.continueLocked()
}

func (d *machineDisk) continueLocked() {
	d.held = false
	close(d.resume)
	d.resume = make(chan struct{})
}

func (d *machineDisk) setSpeed(s [2]time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.speed = s
}

func (d *machineDisk) fail(op vdisk.Op) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing[op], d.broken = true, true
}

// rot flips a bit of something that was written. It reports where, or -1.
func (d *machineDisk) rot() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	pages := d.sim.WrittenPages()
	if len(pages) == 0 {
		return -1
	}
	off := pages[d.rng.IntN(len(pages))]*vdisk.PageSize + d.rng.Int64N(vdisk.PageSize)
	d.sim.FlipBit(off, uint(d.rng.IntN(8)))
	return off
}

// diskHandle is the disk as one process has it open.
type diskHandle struct {
	d   *machineDisk
	sim *vdisk.Sim

	mu   sync.RWMutex
	dead bool
}

// do performs a request in its time.
func (h *diskHandle) do(op vdisk.Op, f func() error) error {
	d := h.d
	d.mu.Lock()
	wait := d.speed[0] + time.Duration(d.rng.Int64N(int64(d.speed[1]-d.speed[0])))
	d.mu.Unlock()
	time.Sleep(wait)
	for {
		d.mu.Lock()
		held, resume, failing := d.held, d.resume, d.failing[op]
		d.mu.Unlock()
		if !held {
			if failing {
				return unix.EIO
			}
			break
		}
		<-resume
	}
	h.mu.RLock()
	defer h.mu.RUnlock()
	if h.dead {
		return vdisk.ErrPowerCut
	}
	return f()
}

// ReadAt implements vdisk.Disk.
func (h *diskHandle) ReadAt(p []byte, off int64) error {
	return h.do(vdisk.OpRead, func() error { return h.sim.ReadAt(p, off) })
}

// WriteAt implements vdisk.Disk.
func (h *diskHandle) WriteAt(p []byte, off int64) error {
	return h.do(vdisk.OpWrite, func() error { return h.sim.WriteAt(p, off) })
}

// WriteDurable implements vdisk.Disk.
func (h *diskHandle) WriteDurable(p []byte, off int64) error {
	return h.do(vdisk.OpWrite, func() error { return h.sim.WriteDurable(p, off) })
}

// Flush implements vdisk.Disk.
func (h *diskHandle) Flush() error {
	return h.do(vdisk.OpFlush, func() error { return h.sim.Flush() })
}

// Discard implements vdisk.Disk.
func (h *diskHandle) Discard(int64, int64) error { return nil }

// SizeBytes implements vdisk.Disk.
func (h *diskHandle) SizeBytes() int64 { return h.sim.SizeBytes() }

// Direct implements vdisk.Disk.
func (h *diskHandle) Direct() bool { return true }

func (h *diskHandle) String() string { return h.d.name }

// Close implements vdisk.Disk.
func (h *diskHandle) Close() error { return nil }
