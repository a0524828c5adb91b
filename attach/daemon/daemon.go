package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/iomesh/iomesh/attach/loop"
)

// Options of New.
type Options struct {
	// Dir is the state directory, made if missing. It has to be visible to the node (shared mount propagation).
	Dir    string
	Dialer Dialer
	Log    *slog.Logger
}

// Daemon holds the volumes of a node. Safe for concurrent use.
type Daemon struct {
	dirs   records
	dialer Dialer
	log    *slog.Logger

	mu      sync.Mutex
	calls   map[string]struct{} // volumes that a call works on
	volumes map[string]*volume
	broken  map[string]record // devices of an earlier process that somebody still holds
	closed  bool
}

// errBusy: another call works on the volume.
var errBusy = errors.New("another call works on this volume")

// errConflict: attached with other parameters.
var errConflict = errors.New("attached with other parameters")

// errNotAttached is returned by Resize.
var errNotAttached = errors.New("not attached on this node")

// errClosed: the daemon ends.
var errClosed = errors.New("the attacher is shutting down")

// New makes a daemon and clears what an earlier process left, see Recover in the package documentation.
func New(ctx context.Context, opts Options) (*Daemon, error) {
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	d := &Daemon{
		dirs: records{dir: opts.Dir}, dialer: opts.Dialer, log: opts.Log,
		calls: map[string]struct{}{}, volumes: map[string]*volume{}, broken: map[string]record{},
	}
	d.recover(ctx)
	return d, nil
}

// begin reserves a volume for one call.
func (d *Daemon) begin(id string) (end func(), err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.calls[id]; ok {
		return nil, fmt.Errorf("volume %s: %w", id, errBusy)
	}
	d.calls[id] = struct{}{}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.calls, id)
	}, nil
}

func (d *Daemon) get(id string) *volume {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.volumes[id]
}

// attach makes a volume or returns the one that is there.
func (d *Daemon) attach(ctx context.Context, t Target) (*volume, error) {
	end, err := d.begin(t.VolumeID)
	if err != nil {
		return nil, err
	}
	defer end()
	if v := d.get(t.VolumeID); v != nil {
		switch err := v.alive(); {
		case err != nil || v.detaching != "":
			// Asked for again while the old device is going: it has to go first, or two devices would serve one volume.
			if err := d.finish(ctx, t.VolumeID, v); err != nil {
				return nil, err
			}
		case v.target.IQN != t.IQN || v.target.LUN != t.LUN || v.target.Initiator != t.Initiator || v.target.ReadOnly != t.ReadOnly:
			return nil, fmt.Errorf("volume %s is attached as %s by %s, read-only %t: %w; detach it first",
				t.VolumeID, v.target.IQN, v.target.Initiator, v.target.ReadOnly, errConflict)
		case v.target.Credentials != t.Credentials:
			// The volume was taken from this node and granted anew: the session stands on a grant that has gone and can never
			// log in again. What was not written by then must not be written under the new grant either.
			if err := d.finish(ctx, t.VolumeID, v); err != nil {
				return nil, err
			}
		default:
			return v, nil
		}
	}
	// A device left by a dead process serves nobody and writes nothing, so a new one beside it is safe, and needed when its
	// last user waits for the new one. Its record would be overwritten: it is moved aside in memory first.
	_ = d.clear(ctx, t.VolumeID)
	d.mu.Lock()
	closed := d.closed
	d.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	v, err := attach(ctx, d.dialer, t, d.dirs, d.log.With("volume", t.VolumeID))
	if err != nil {
		return nil, fmt.Errorf("attach volume %s: %w", t.VolumeID, err)
	}
	d.mu.Lock()
	d.volumes[t.VolumeID] = v
	d.mu.Unlock()
	d.log.Info("attached", "volume", t.VolumeID, "device", v.rec.Device, "sizeBytes", v.sizeBytes, "readOnly", t.ReadOnly)
	return v, nil
}

// detach removes a volume, and what an earlier process left of it.
func (d *Daemon) detach(ctx context.Context, id string) error {
	end, err := d.begin(id)
	if err != nil {
		return err
	}
	defer end()
	if v := d.get(id); v != nil {
		if err := d.finish(ctx, id, v); err != nil {
			return err
		}
	}
	return d.clear(ctx, id)
}

func (d *Daemon) finish(ctx context.Context, id string, v *volume) error {
	if err := v.detach(ctx); err != nil {
		return fmt.Errorf("detach volume %s: %w", id, err)
	}
	d.mu.Lock()
	delete(d.volumes, id)
	d.mu.Unlock()
	d.log.Info("detached", "volume", id)
	return nil
}

func (d *Daemon) resize(ctx context.Context, id string) (*volume, error) {
	end, err := d.begin(id)
	if err != nil {
		return nil, err
	}
	defer end()
	v := d.get(id)
	if v == nil {
		return nil, fmt.Errorf("resize volume %s: %w", id, errNotAttached)
	}
	if err := v.alive(); err != nil {
		return nil, fmt.Errorf("resize volume %s: %w", id, err)
	}
	if err := v.resize(ctx); err != nil {
		return nil, fmt.Errorf("resize volume %s: %w", id, err)
	}
	return v, nil
}

// Close detaches what nobody uses and gives up the rest: their devices fail from the moment this process ends. Data in the devices'
// own caches is flushed first, within ctx. New attachments are refused from here on.
func (d *Daemon) Close(ctx context.Context) error {
	d.mu.Lock()
	d.closed = true
	ids := slices.Sorted(maps.Keys(d.volumes))
	d.mu.Unlock()
	var errs []error
	for _, id := range ids {
		if err := d.detach(ctx, id); err != nil {
			errs = append(errs, err)
			if v := d.get(id); v != nil && errors.Is(err, loop.ErrInUse) && v.device != nil {
				errs = append(errs, v.flush(ctx))
			}
		}
	}
	return errors.Join(errs...)
}

// flush writes the device's cache within ctx.
func (v *volume) flush(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- v.device.Sync() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("flush %s: %w", v.device.Path, ctx.Err())
	}
}
