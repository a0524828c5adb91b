package target

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/iomesh/iomesh/internal/scsi"
)

// lunID is the number of the volume's logical unit in its target.
const lunID = 1

// device is the logical unit of a target: what all its sessions share.
type device struct {
	srv    *Server
	iqn    string
	volume Volume
	prop   Properties

	// Under Server.mu.
	sessions map[*session]struct{}
	past     Counters // of sessions that ended
	loaded   bool     // reservations were read from the store

	// access is the state of persistent reservations that commands are checked against; never nil. holder is the session of RESERVE (6).
	access atomic.Pointer[scsi.Reservations]
	holder atomic.Pointer[session]
	mode   atomic.Pointer[scsi.Mode]

	// changing orders what changes reservations and mode. It is held while the store of reservations is asked, which may take as long as its
	// callers have patience.
	changing turn
	version  int64
}

func newDevice(s *Server, iqn string, v Volume) *device {
	d := &device{srv: s, iqn: iqn, volume: v, prop: v.Properties(), sessions: map[*session]struct{}{}, changing: make(turn, 1)}
	d.access.Store(&scsi.Reservations{})
	d.mode.Store(&scsi.Mode{})
	return d
}

// turn is a lock that is waited for no longer than a context lasts. Capacity 1.
type turn chan struct{}

func (t turn) lock(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Lock and Unlock implement sync.Locker.
func (t turn) Lock()   { t <- struct{}{} }
func (t turn) Unlock() { <-t }

// load reads the reservations from the store.
func (d *device) load(ctx context.Context) error {
	if err := d.changing.lock(ctx); err != nil {
		return err
	}
	defer d.changing.Unlock()
	if err := d.reload(ctx); err != nil {
		return err
	}
	d.srv.mu.Lock()
	d.loaded = true
	d.srv.mu.Unlock()
	return nil
}

func (d *device) reload(ctx context.Context) error {
	data, version, err := d.volume.LoadReservations(ctx)
	if err != nil {
		return err
	}
	r, err := scsi.UnmarshalReservations(data)
	if err != nil {
		return err
	}
	d.access.Store(&r)
	d.version = version
	return nil
}

// reserveOut applies a PERSISTENT RESERVE OUT and stores the result. Effects on others are for the caller, once stored.
func (d *device) reserveOut(ctx context.Context, n scsi.Nexus, o scsi.ReserveOut) (scsi.Effect, scsi.Status, scsi.Sense, error) {
	if err := d.changing.lock(ctx); err != nil {
		return scsi.Effect{}, scsi.Good, scsi.Sense{}, err
	}
	defer d.changing.Unlock()
	for range 3 {
		next, effect, status, sense := d.access.Load().Apply(n, o)
		if status != scsi.Good || !effect.Changed {
			return effect, status, sense, nil
		}
		version, err := d.volume.SaveReservations(ctx, next.Marshal(), d.version)
		if err == nil {
			d.version = version
			d.access.Store(&next)
			return effect, status, sense, nil
		}
		// Changed elsewhere or outcome unknown: what is stored decides.
		if rerr := d.reload(ctx); rerr != nil {
			return scsi.Effect{}, status, sense, errors.Join(err, rerr)
		}
		if !errors.Is(err, ErrReservationsChanged) {
			return scsi.Effect{}, status, sense, err
		}
	}
	return scsi.Effect{}, scsi.Good, scsi.Sense{}, ErrReservationsChanged
}

// unit describes the logical unit as of now.
func (d *device) unit() scsi.Unit {
	u := scsi.Unit{
		Revision: d.srv.opt.Revision, Serial: d.prop.Serial, NAA: d.prop.NAA, Target: d.iqn,
		Blocks: d.volume.SizeBytes() / scsi.BlockBytes, Thin: d.prop.Thin, Physical512: d.prop.Physical512,
		Limits: scsi.Limits{
			Transfer:         MaxTransferBytes / scsi.BlockBytes,
			OptimalTransfer:  (1 << 20) / scsi.BlockBytes,
			Unmap:            MaxUnmapBytes / scsi.BlockBytes,
			UnmapDescriptors: unmapDescriptorsMax,
			UnmapGranularity: 4096 / scsi.BlockBytes,
			WriteSame:        MaxZeroBytes / scsi.BlockBytes,
			CompareAndWrite:  MaxCompareBytes / scsi.BlockBytes,
			Atomic:           d.prop.AtomicMaxBytes / scsi.BlockBytes,
			AtomicAlignment:  4096 / scsi.BlockBytes,
		},
	}
	return u
}

// unmapDescriptorsMax bounds the ranges of one UNMAP.
const unmapDescriptorsMax = 256

// peers lists the sessions of the unit.
func (d *device) peers() []*session { return d.srv.sessionsOf(d.iqn, "") }

// tell gives unit attentions to the sessions they are meant for.
func (d *device) tell(list []scsi.Attention) {
	if len(list) == 0 {
		return
	}
	for _, x := range d.peers() {
		for _, a := range list {
			if x.nexus == a.Nexus {
				x.attention(a.Code)
			}
		}
	}
}

// lost drops all sessions: this process is no longer the owner. It does not wait, since the caller is the volume.
func (d *device) lost() {
	d.srv.cancelLogins(d.iqn, "")
	for _, x := range d.peers() {
		x.close("volume lost")
	}
}
