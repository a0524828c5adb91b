// Package session makes the daemon's LUNs of iSCSI sessions (internal/iscsi/initiator).
//
// Before a LUN is handed out it has to prove that it is the volume: its unit serial number (VPD page 80h) is the volume's id. A target
// that does not promise zeros for unmapped blocks (LBPRZ) gets WRITE SAME instead of UNMAP, because the loop driver takes a hole for zeros.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/iomesh/iomesh/attach/daemon"
	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/iscsi/login"
	"github.com/iomesh/iomesh/internal/scsi"
)

const (
	// rangeBytesMax is the longest range of one UNMAP or WRITE SAME; targets announce at least that.
	rangeBytesMax = 256 << 20
	// queueDepth is the number of commands in progress at the target.
	queueDepth = 128
	// dialTimeout bounds the first login when the caller sets no shorter limit: the target parks it while a volume has no owner.
	dialTimeout = 45 * time.Second
	// sectorBytes is the only logical block size of the device.
	sectorBytes = 512
)

// Dialer logs in to targets.
type Dialer struct{ Log *slog.Logger }

// Dial implements daemon.Dialer.
func (d Dialer) Dial(ctx context.Context, t daemon.Target) (daemon.LUN, error) {
	if t.LUN > 255 {
		return nil, fmt.Errorf("lun %d: want 0 to 255", t.LUN)
	}
	l := &lun{target: t, resized: make(chan struct{}, 1)}
	o := initiator.Options{
		Portals: t.Portals, Target: t.IQN, Initiator: t.Initiator, LUN: uint8(t.LUN), QueueDepth: queueDepth,
		OnResize: l.onResize, Log: d.Log.With("volume", t.VolumeID),
	}
	if c := t.Credentials; c.User != "" {
		o.CHAP = &initiator.CHAP{User: c.User, Secret: c.Secret, MutualUser: c.MutualUser, MutualSecret: c.MutualSecret}
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	s, err := initiator.Dial(ctx, o)
	if err != nil {
		return nil, classify(err)
	}
	l.session = s
	if err := l.prove(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return l, nil
}

// classify says what the caller can do about a failed login.
func classify(err error) error {
	var e *login.Error
	if errors.As(err, &e) {
		switch e.Status {
		case login.AuthFailure:
			return fmt.Errorf("%w: %w", daemon.ErrCredentials, err)
		case login.NotFound, login.NotAuthorized, login.Removed:
			return fmt.Errorf("%w: %w", daemon.ErrNotFound, err)
		case login.Unavailable, login.OutOfResources, login.TargetError:
			return fmt.Errorf("%w: %w", daemon.ErrUnreachable, err)
		}
		return err
	}
	return fmt.Errorf("%w: %w", daemon.ErrUnreachable, err)
}

// lun implements daemon.LUN.
type lun struct {
	target  daemon.Target
	session *initiator.Session
	resized chan struct{}
	size    atomic.Int64
	zeroes  bool // unmapped blocks read as zeros
}

// prove checks that the LUN is the volume and reads its properties.
func (l *lun) prove(ctx context.Context) error {
	serial, err := l.session.Serial(ctx)
	if err != nil {
		return err
	}
	if !sameID(serial, l.target.VolumeID) {
		return fmt.Errorf("%s has the serial number %q, which is not that of volume %s: it is not used", l.target.IQN, serial, l.target.VolumeID)
	}
	c, err := l.session.ReadCapacity(ctx)
	if err != nil {
		return err
	}
	if c.BlockBytes != sectorBytes {
		return fmt.Errorf("%s has logical blocks of %d bytes, expected %d", l.target.IQN, c.BlockBytes, sectorBytes)
	}
	l.zeroes = c.Thin && c.UnmappedReadsZero
	l.size.Store(int64(c.SizeBytes))
	return nil
}

// sameID compares a serial number with a volume id: a UUID with or without its hyphens.
func sameID(serial, id string) bool {
	strip := func(s string) string { return strings.ToLower(strings.ReplaceAll(strings.TrimSpace(s), "-", "")) }
	return strip(serial) != "" && strip(serial) == strip(id)
}

func (l *lun) onResize(uint64) {
	select {
	case l.resized <- struct{}{}:
	default: // one is waiting, and will read the newest size
	}
}

// errnoOf gives an error an errno that says more than EIO, where there is one.
func errnoOf(err error) error {
	var e *initiator.StatusError
	if !errors.As(err, &e) || e.Status != scsi.CheckCondition {
		return err
	}
	switch {
	case e.Sense.Code == scsi.SpaceAllocationFailed: // the pool is full (SBC-4 §4.7.3.6)
		return fmt.Errorf("%w: %w", syscall.ENOSPC, err)
	case e.Sense.Key == scsi.DataProtect:
		return fmt.Errorf("%w: %w", syscall.EROFS, err)
	}
	return err
}

// ReadAt implements daemon.LUN.
func (l *lun) ReadAt(ctx context.Context, p []byte, offset int64) error {
	return errnoOf(l.session.ReadAt(ctx, p, uint64(offset)))
}

// WriteAt implements daemon.LUN.
func (l *lun) WriteAt(ctx context.Context, p []byte, offset int64) error {
	return errnoOf(l.session.WriteAt(ctx, p, uint64(offset)))
}

// Flush implements daemon.LUN.
func (l *lun) Flush(ctx context.Context) error { return errnoOf(l.session.Flush(ctx)) }

// Unmap implements daemon.LUN.
func (l *lun) Unmap(ctx context.Context, offset, length int64) error {
	if !l.zeroes {
		return l.WriteZeroes(ctx, offset, length)
	}
	return l.ranges(ctx, offset, length, l.session.Unmap)
}

// WriteZeroes implements daemon.LUN.
func (l *lun) WriteZeroes(ctx context.Context, offset, length int64) error {
	return l.ranges(ctx, offset, length, l.session.WriteZeroes)
}

func (l *lun) ranges(ctx context.Context, offset, length int64, f func(ctx context.Context, offset, length uint64) error) error {
	for at := int64(0); at < length; at += rangeBytesMax {
		if err := f(ctx, uint64(offset+at), uint64(min(length-at, rangeBytesMax))); err != nil {
			return errnoOf(err)
		}
	}
	return nil
}

// SizeBytes implements daemon.LUN.
func (l *lun) SizeBytes() int64 { return l.size.Load() }

// Refresh implements daemon.LUN.
func (l *lun) Refresh(ctx context.Context) (int64, error) {
	c, err := l.session.ReadCapacity(ctx)
	if err != nil {
		return 0, err
	}
	l.size.Store(int64(c.SizeBytes))
	return int64(c.SizeBytes), nil
}

// Resized implements daemon.LUN.
func (l *lun) Resized() <-chan struct{} { return l.resized }

// Close implements daemon.LUN. The session bounds its logout by itself.
func (l *lun) Close(context.Context) error { return l.session.Close() }
