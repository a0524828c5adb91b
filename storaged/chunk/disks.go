package chunk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/iomesh/iomesh/internal/beat"
	"github.com/iomesh/iomesh/internal/diskdir"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
	"github.com/iomesh/iomesh/storaged/wakes"
)

// disk is one open disk of this chunk.
type disk struct {
	id    block.DiskID
	entry diskdir.Entry
	dev   vdisk.Disk
	store *store.Store
	// failed is set once the store has fenced the disk (I7); guarded by disks.mu.
	failed error
	// stalled says what does not come back, while it does not: reads would only queue behind it. Nothing is lost by a stall: the owner
	// leaves the replicas out after timeouts.ReplicaDrop, and takes them back as it does after an outage.
	stalled atomic.Pointer[string]
	stalls  atomic.Uint64
	// reads feeds the disk's goroutines for reads that wait; closed, under readMu, when the disk is gone. readers counts these, and the reads
	// that go on without one.
	readMu  sync.RWMutex
	reads   chan *storeOp
	closed  bool
	readers sync.WaitGroup
}

// read begins a read, or reports false if the disk is gone or has too many waiting.
func (x *disk) read(o *storeOp, later *wakes.List) bool {
	x.readMu.RLock()
	if x.closed {
		x.readMu.RUnlock()
		return false
	}
	x.readers.Add(1)
	x.readMu.RUnlock()
	if o.startRead() {
		later.Later(x.store)
		return true
	}
	defer x.readers.Done()
	return x.queueRead(o)
}

// queueRead has a read done by a goroutine of the disk. The caller holds readers, or readMu.
func (x *disk) queueRead(o *storeOp) bool {
	x.readMu.RLock()
	defer x.readMu.RUnlock()
	if x.closed {
		return false
	}
	select {
	case x.reads <- o:
		return true
	default:
		return false
	}
}

// stop ends the readers once what is queued is done.
func (x *disk) stop() {
	x.readMu.Lock()
	x.closed = true
	close(x.reads)
	x.readMu.Unlock()
	x.readers.Wait()
}

// diskEvents is told of disks that come and go, from the goroutine of disks.run.
type diskEvents interface {
	// diskOpened: the store is recovered and may be used.
	diskOpened(*disk)
	// diskGone: the disk must not be used any more; returns once nobody does. Its store is closed afterwards.
	diskGone(*disk, error)
	// diskInUse says why the disk cannot be let go yet, or "".
	diskInUse(*disk) string
}

// disks keeps the stores of a chunk equal to the disk directory.
type disks struct {
	dir     string
	cluster block.ClusterID
	events  diskEvents
	log     *slog.Logger
	device  func(path string) (vdisk.Disk, error)

	mu   sync.Mutex
	open map[string]*disk // by entry name
	// journals are the open journal disks, by entry name; of the goroutine of sync.
	journals map[string]*journalDisk
	said     map[string]diskdir.Status
	kick     chan struct{}
	changed  chan struct{} // capacity 1: a disk is in another state, for the reporter
}

func newDisks(dir string, cluster block.ClusterID, ev diskEvents, log *slog.Logger) *disks {
	return &disks{dir: dir, cluster: cluster, events: ev, log: log, device: openDevice,
		open: map[string]*disk{}, journals: map[string]*journalDisk{}, said: map[string]diskdir.Status{}, kick: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
}

// rescan is how often the directory is read; statusEvery how often an unchanged status is written anew.
const (
	rescan      = time.Second
	statusEvery = 30 * time.Second
)

// run follows the directory until ctx ends, then closes all stores.
func (d *disks) run(ctx context.Context) {
	t := beat.Every(rescan)
	defer t.Stop()
	for {
		d.sync(ctx)
		select {
		case <-ctx.Done():
			d.closeAll()
			return
		case <-t.C:
		case <-d.kick:
		}
	}
}

// all returns the open disks in the order of their names.
func (d *disks) all() []*disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]*disk, 0, len(d.open))
	for _, x := range d.open {
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b *disk) int { return slices.Compare([]byte(a.entry.Name), []byte(b.entry.Name)) })
	return out
}

// failure is why the disk is not to be used any more, or nil.
func (d *disks) failure(x *disk) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return x.failed
}

// fail marks a disk as failed, once; the first reason stays (I7).
func (d *disks) fail(x *disk, reason error) {
	d.mu.Lock()
	first := x.failed == nil
	if first {
		x.failed = reason
	}
	d.mu.Unlock()
	if first {
		d.log.Error("disk failed", "disk", x.id.String(), "device", x.entry.Device, "err", reason)
		d.tell()
		d.wake()
	}
}

// tell has the metadata leader told at once that a disk is in another state.
func (d *disks) tell() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// wake has the directory and the statuses looked at soon.
func (d *disks) wake() {
	select {
	case d.kick <- struct{}{}:
	default:
	}
}

// sync makes the open stores equal to the directory once.
func (d *disks) sync(ctx context.Context) {
	entries, errs := diskdir.Entries(d.dir)
	for _, err := range errs {
		d.log.Warn("disk entry ignored", "err", err)
	}
	wanted := map[string]bool{}
	journalFirst(entries)
	for _, e := range entries {
		wanted[e.Name] = true
		if e.MountType == "cacheWithJournal" {
			d.syncJournals(ctx, e)
			continue
		}
		d.mu.Lock()
		x := d.open[e.Name]
		d.mu.Unlock()
		switch {
		case x == nil:
			d.attach(ctx, e)
		case deviceVanished(x):
			d.fail(x, fmt.Errorf("device %s has disappeared", x.entry.Device))
			d.report(x)
		default:
			d.report(x)
		}
	}
	d.mu.Lock()
	var gone []*disk
	for name, x := range d.open {
		if !wanted[name] {
			gone = append(gone, x)
		}
	}
	d.mu.Unlock()
	for _, x := range gone {
		d.release(x)
	}
	d.releaseJournals(wanted)
}

// deviceVanished reports whether the path no longer names what was opened.
func deviceVanished(x *disk) bool { return gone(x.entry.Device) }

// attach opens, and if allowed formats, the disk of an entry.
func (d *disks) attach(ctx context.Context, e diskdir.Entry) {
	x, err := d.openStore(ctx, e)
	if err != nil {
		d.say(diskdir.Status{Name: e.Name, State: diskdir.StateRefused, Message: err.Error(), SizeBytes: e.SizeBytes})
		return
	}
	d.mu.Lock()
	for _, o := range d.open {
		if o.id == x.id {
			d.mu.Unlock()
			_ = x.store.Close()
			_ = x.dev.Close()
			d.say(diskdir.Status{Name: e.Name, DiskID: x.id.String(), State: diskdir.StateRefused, SizeBytes: e.SizeBytes,
				Message: fmt.Sprintf("duplicate of disk %s, which is in use as %s (%s): remove the copy", x.id, o.entry.Name, o.entry.Device)})
			return
		}
	}
	d.open[e.Name] = x
	d.mu.Unlock()
	d.log.Info("disk opened", "disk", x.id.String(), "device", e.Device, "replicas", x.store.Stats().Replicas)
	d.events.diskOpened(x)
	d.report(x)
}

func (d *disks) openStore(ctx context.Context, e diskdir.Entry) (*disk, error) {
	if e.ClusterID != "" && e.ClusterID != d.cluster.String() {
		return nil, fmt.Errorf("disk entry %s is for cluster %s, this chunk belongs to %s", e.Name, e.ClusterID, d.cluster)
	}
	mount, ok := mountTypes[e.MountType]
	if !ok {
		return nil, fmt.Errorf("disk entry %s: unknown mount type %q", e.Name, e.MountType)
	}
	dev, err := d.device(e.Device)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", e.Device, err)
	}
	keep := false
	defer func() {
		if !keep {
			_ = dev.Close()
		}
	}()
	sb, err := store.Probe(dev)
	if errors.Is(err, store.ErrBlank) && e.Format {
		d.log.Info("formatting a blank disk", "name", e.Name, "device", e.Device, "bytes", dev.SizeBytes())
		id := block.NewDiskID()
		if e.DiskID != "" {
			if id, err = block.ParseDiskID(e.DiskID); err != nil {
				return nil, err
			}
		}
		if err = store.Format(ctx, dev, store.FormatOptions{Cluster: d.cluster, DiskID: id, MountType: mount, Journals: d.roomiest()}); err == nil {
			sb, err = store.Probe(dev)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("disk %s (%s): %w", e.Name, e.Device, err)
	}
	if e.DiskID != "" && e.DiskID != sb.DiskID.String() {
		return nil, fmt.Errorf("device %s holds disk %s, the entry names %s: not touched", e.Device, sb.DiskID, e.DiskID)
	}
	x := &disk{id: sb.DiskID, entry: e, dev: dev}
	x.store, err = store.Open(ctx, dev, store.Options{
		Cluster: d.cluster, CheckSums: true, Journals: d.journalOf(sb.JournalDisk), Log: d.log.With("disk", sb.DiskID.String()),
		OnFenced: func(err error) { d.fail(x, err) },
		OnStall: func(s store.Stall) {
			what := fmt.Sprintf("a %s has not come back from the disk since %s; it is used again as soon as it answers", s.Op, s.Since.UTC().Format(time.RFC3339))
			if x.stalled.Swap(&what) == nil {
				x.stalls.Add(1)
				d.tell()
				d.log.Warn("disk stalls", "disk", x.id.String(), "device", e.Device, "op", s.Op, "since", s.Since)
			}
			d.wake()
		},
		OnStallEnd: func() {
			x.stalled.Store(nil)
			d.tell()
			d.log.Info("disk answers again", "disk", x.id.String(), "device", e.Device)
			d.wake()
		},
		OnCorrupt: func(c store.Corruption) {
			d.log.Error("corruption found", "disk", sb.DiskID.String(), "what", c.What, "extents", len(c.Extents))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("disk %s (%s): %w", e.Name, e.Device, err)
	}
	keep = true
	return x, nil
}

// release lets a disk go whose entry was removed, as soon as no set needs it or the device has gone anyway.
func (d *disks) release(x *disk) {
	if why := d.events.diskInUse(x); why != "" && d.failure(x) == nil && !deviceVanished(x) {
		st := d.status(x)
		st.Message = "entry removed; still in use: " + why
		d.say(st)
		return
	}
	d.detach(x, errors.New("disk was released"))
	d.say(diskdir.Status{Name: x.entry.Name, DiskID: x.id.String(), State: diskdir.StateReleased, SizeBytes: x.entry.SizeBytes})
}

func (d *disks) detach(x *disk, reason error) {
	d.events.diskGone(x, reason)
	d.mu.Lock()
	delete(d.open, x.entry.Name)
	d.mu.Unlock()
	if err := x.store.Close(); err != nil {
		d.log.Warn("closing a disk", "disk", x.id.String(), "err", err)
	}
	_ = x.dev.Close()
	d.log.Info("disk closed", "disk", x.id.String(), "reason", reason)
}

func (d *disks) closeAll() {
	for _, x := range d.all() {
		d.detach(x, context.Canceled)
	}
	for _, j := range d.journals {
		_ = j.dev.Close()
	}
}

func (d *disks) status(x *disk) diskdir.Status {
	s := x.store.Stats()
	st := diskdir.Status{Name: x.entry.Name, DiskID: x.id.String(), State: diskdir.StateActive,
		UsedBytes: s.UsedBytes, SizeBytes: s.CapacityBytes, Replicas: s.Replicas}
	if err := d.failure(x); err != nil {
		st.State, st.Message = diskdir.StateFailed, err.Error()
	} else if what := x.stalled.Load(); what != nil {
		st.State, st.Message = diskdir.StateStalled, *what
	}
	return st
}

func (d *disks) report(x *disk) { d.say(d.status(x)) }

// say writes a status when it differs from the last one in more than usage, or that one is old.
func (d *disks) say(s diskdir.Status) {
	s.Time = time.Now().UTC()
	d.mu.Lock()
	last, ok := d.said[s.Name]
	same := ok && last.State == s.State && last.Message == s.Message && last.DiskID == s.DiskID && s.Time.Sub(last.Time) < statusEvery
	if !same {
		d.said[s.Name] = s
	}
	d.mu.Unlock()
	if same {
		return
	}
	if s.State == diskdir.StateRefused {
		d.log.Warn("disk refused", "name", s.Name, "reason", s.Message)
	}
	if err := diskdir.WriteStatus(d.dir, s); err != nil {
		d.log.Warn("disk status not written", "name", s.Name, "err", err)
	}
}
