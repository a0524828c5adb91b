package smart

import (
	"context"
	"log/slog"
	"reflect"
	"sync"
	"time"

	"github.com/iomesh/iomesh/agent/blockdev"
)

// Every is how often a disk is asked: what these logs tell changes over weeks.
const Every = 6 * time.Hour

// Finding is the newest report of a disk.
type Finding struct {
	Report
	At time.Time
}

// Prober asks disks in the background, each at most once per Every and when it is new. Its methods may be called concurrently.
type Prober struct {
	open   Open
	now    func() time.Time
	log    *slog.Logger
	change func()

	mu    sync.Mutex
	disks map[string]*disk
	want  chan struct{}
	wg    sync.WaitGroup
}

// disk is what is known of one disk, by identity and attachment.
type disk struct {
	dev   *blockdev.Device
	found *Finding
	asked time.Time // zero: never
	busy  bool
}

// New returns a Prober; Run makes it work. change is called when a report differs from the one before in anything but its time; it must not block.
func New(open Open, now func() time.Time, log *slog.Logger, change func()) *Prober {
	return &Prober{open: open, now: now, log: log, change: change, disks: map[string]*disk{}, want: make(chan struct{}, 1)}
}

// key tells a disk from others, and from itself after it was plugged in again.
func key(d *blockdev.Device) string { return d.Name() + " " + d.KernelName }

// See tells the prober which devices there are now.
func (p *Prober) See(devices []*blockdev.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	here := map[string]bool{}
	for _, d := range devices {
		if !Asked(d) {
			continue
		}
		k := key(d)
		here[k] = true
		switch known := p.disks[k]; {
		case known == nil:
			p.disks[k] = &disk{dev: d}
		case known.dev.DiskSeq != d.DiskSeq:
			known.dev, known.asked = d, time.Time{}
		default:
			known.dev = d
		}
	}
	for k, d := range p.disks {
		// One that hangs is kept, so that it is not asked a second time when it shows up again.
		if !here[k] && !d.busy {
			delete(p.disks, k)
		}
	}
	select {
	case p.want <- struct{}{}:
	default:
	}
}

// Of returns what a device last said; a partition has what its disk said. Nil if it said nothing.
func (p *Prober) Of(d *blockdev.Device, all []*blockdev.Device) *Finding {
	if d.Type == blockdev.Partition {
		for _, x := range all {
			if x.KernelName == d.Parent {
				return p.Of(x, all)
			}
		}
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if known := p.disks[key(d)]; known != nil {
		return known.found
	}
	return nil
}

// Run asks disks that are due until ctx ends. It does not wait for one that hangs.
func (p *Prober) Run(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		p.askDue()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-p.want:
		}
	}
}

func (p *Prober) askDue() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for _, d := range p.disks {
		if d.busy || !d.asked.IsZero() && now.Sub(d.asked) < Every {
			continue
		}
		d.busy, d.asked = true, now
		p.wg.Go(func() { p.ask(d) })
	}
}

func (p *Prober) ask(d *disk) {
	p.mu.Lock()
	dev := d.dev
	p.mu.Unlock()
	r, err := Read(p.open, dev)
	p.mu.Lock()
	d.busy = false
	before := d.found
	if err != nil {
		d.found = nil
	} else {
		d.found = &Finding{Report: r, At: p.now()}
	}
	changed := (before == nil) != (d.found == nil) || before != nil && !reflect.DeepEqual(before.Report, r)
	p.mu.Unlock()
	switch {
	case err != nil:
		p.log.Debug("disk says nothing of its health", "path", dev.Path, "err", err)
	case r.Failing() && changed:
		p.log.Warn("disk reports its failure", "path", dev.Path, "device", dev.Name(), "says", r.Reason())
	}
	if changed {
		p.change()
	}
}
