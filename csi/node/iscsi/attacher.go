package iscsi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/csi/code"
	"github.com/iomesh/iomesh/csi/node"
)

// Options of New.
type Options struct {
	// HostProc is the host's /proc: init's namespaces and, as 1/root, the host's root directory are used.
	HostProc string
	// Initiator is our name on this node.
	Initiator string
	Log       *slog.Logger
}

// Attacher implements node.Attacher. Calls for one volume must not overlap.
type Attacher struct {
	tool      tool
	sys       sysfs
	hostRoot  string
	dev       string
	initiator string
	log       *slog.Logger
	poll      time.Duration
	sync      func(path string) error // flushes a device and says whether it is in use
}

// Waits for the kernel. Login is bounded by open-iscsi's own retries.
const (
	sessionWait = 10 * time.Second
	deviceWait  = 15 * time.Second
)

// New makes an attacher. Nothing is run before the first call.
func New(o Options) (*Attacher, error) {
	return &Attacher{
		tool: newHost(o.HostProc), sys: sysfs{"/sys"}, hostRoot: filepath.Join(o.HostProc, "1/root"), dev: "/dev", initiator: o.Initiator,
		log: o.Log, poll: 100 * time.Millisecond, sync: syncUnused,
	}, nil
}

// Attach implements node.Attacher.
func (a *Attacher) Attach(ctx context.Context, t node.Target) (node.Device, error) {
	if len(t.Portals) == 0 {
		return node.Device{}, code.New(code.Internal, "no portal")
	}
	portal := t.Portals[0] // the node's redirector; the kernel follows its redirections anew at each login
	if err := checkPortal(portal); err != nil {
		return node.Device{}, code.New(code.Internal, "%w", err)
	}
	if err := a.record(t, portal); err != nil {
		return node.Device{}, code.New(code.Internal, "prepare the login to %s: %w", t.IQN, err)
	}
	s, ok := a.session(t.IQN)
	if !ok {
		loginErr := a.tool.Login(portal, t.IQN)
		err := a.wait(ctx, sessionWait, func() bool { s, ok = a.session(t.IQN); return ok && s.loggedIn() })
		switch {
		case refused(loginErr):
			return node.Device{}, code.New(code.Credentials, "the target %s refuses the CHAP secret of this node: the secrets for publishing and staging differ", t.IQN)
		case err != nil && loginErr != nil:
			return node.Device{}, code.New(code.Unavailable, "log in to %s at %s: %w", t.IQN, portal, loginErr)
		case err != nil:
			return node.Device{}, code.New(code.Unavailable, "log in to %s at %s: iscsiadm reported success, but the kernel has no session: %w", t.IQN, portal, err)
		}
	}
	var d disk
	err := a.wait(ctx, deviceWait, func() bool {
		var found bool
		d, found = a.disk(s, t.LUN)
		return found && d.sizeBytes > 0 && d.state == "running"
	})
	if err != nil {
		return node.Device{}, code.New(code.Unavailable, "the kernel shows no working disk for LUN %d of %s (session %s, %s): %w", t.LUN, t.IQN, s.name, s.state, err)
	}
	if err := a.verify(d, t.VolumeID); err != nil {
		return node.Device{}, err
	}
	return a.device(s, d), nil
}

// record makes the node record and writes the secrets into it.
func (a *Attacher) record(t node.Target, portal string) error {
	files, err := recordFiles(a.hostRoot, t.IQN)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		if err := a.tool.Iface(t.Initiator); err != nil {
			return err
		}
		if err := a.tool.NewRecord(portal, t.IQN); err != nil {
			return err
		}
		if files, err = recordFiles(a.hostRoot, t.IQN); err != nil {
			return err
		}
		if len(files) == 0 {
			return fmt.Errorf("iscsiadm reported success, but there is no node record below %v", nodeDirs)
		}
	}
	for _, f := range files {
		if err := rewrite(a.hostRoot, f, settings(t)); err != nil {
			return err
		}
	}
	return nil
}

// session returns our session with a target.
func (a *Attacher) session(iqn string) (session, bool) {
	for _, s := range a.sys.sessions() {
		if s.target == iqn && s.initiator == a.initiator {
			return s, true
		}
	}
	return session{}, false
}

func (a *Attacher) disk(s session, lun uint32) (disk, bool) {
	for _, d := range a.sys.disks(s.name) {
		if d.lun == lun {
			return d, true
		}
	}
	return disk{}, false
}

// verify refuses a disk that is not the volume's, or that somebody else uses.
func (a *Attacher) verify(d disk, volumeID string) error {
	if !sameID(d.serial, volumeID) {
		return code.New(code.Internal, "disk %s has the serial number %q, not %q of the volume: it is not used", d.name, d.serial, volumeID)
	}
	if len(d.holders) > 0 {
		return code.New(code.InUse, "disk %s is held by %s: if that is multipath, exempt IOMesh by a blacklist section in multipath.conf (kubectl iomesh check has the command) or set attach: userspace",
			d.name, strings.Join(d.holders, ", "))
	}
	return nil
}

func (a *Attacher) device(s session, d disk) node.Device {
	out := node.Device{Path: filepath.Join(a.dev, d.name), SizeBytes: d.sizeBytes}
	switch {
	case d.state != "running":
		out.Trouble = fmt.Sprintf("the kernel has set disk %s %s after errors: delete the pods that use the volume", d.name, d.state)
	case !s.loggedIn():
		out.Trouble = fmt.Sprintf("the session with the target is %s", s.state)
	}
	return out
}

// find returns the session and disk of a volume. The serial number decides; a session whose disk has gone is found by its target's name.
func (a *Attacher) find(volumeID string) (s session, d disk, hasDisk, ok bool) {
	for _, s := range a.sys.sessions() {
		if s.initiator != a.initiator {
			continue
		}
		for _, d := range a.sys.disks(s.name) {
			if sameID(d.serial, volumeID) {
				return s, d, true, true
			}
		}
	}
	for _, s := range a.sys.sessions() {
		if s.initiator == a.initiator && strings.HasSuffix(s.target, ":"+volumeID) {
			return s, disk{}, false, true
		}
	}
	return session{}, disk{}, false, false
}

// Find implements node.Attacher.
func (a *Attacher) Find(_ context.Context, volumeID string) (node.Device, bool, error) {
	s, d, hasDisk, ok := a.find(volumeID)
	if !ok {
		return node.Device{}, false, nil
	}
	if !hasDisk {
		return node.Device{Trouble: "the session has no disk (" + s.state + ")"}, true, nil
	}
	return a.device(s, d), true, nil
}

// Resize implements node.Attacher.
func (a *Attacher) Resize(ctx context.Context, volumeID string) (node.Device, error) {
	s, d, hasDisk, ok := a.find(volumeID)
	if !ok || !hasDisk {
		return node.Device{}, code.New(code.NotFound, "volume %s is not attached", volumeID)
	}
	if err := a.sys.write(d.name, "rescan", "1"); err != nil {
		return node.Device{}, code.New(code.Internal, "%w", err)
	}
	d, ok = a.disk(s, d.lun)
	if !ok {
		return node.Device{}, code.New(code.Unavailable, "disk of volume %s vanished while it was looked at again", volumeID)
	}
	return a.device(s, d), nil
}

// Detach implements node.Attacher. A login that failed half-way leaves no session but a node record, which is removed as well.
func (a *Attacher) Detach(ctx context.Context, volumeID string) error {
	targets := recordedTargets(a.hostRoot, volumeID)
	if s, d, hasDisk, ok := a.find(volumeID); ok {
		if hasDisk {
			if err := a.removeDisk(d, volumeID); err != nil {
				return err
			}
		}
		logoutErr := a.tool.Logout(s.target)
		if err := a.wait(ctx, sessionWait, func() bool { _, there := a.session(s.target); return !there }); err != nil {
			return code.New(code.Unavailable, "log out of %s: the session is still there: %w", s.target, errors.Join(logoutErr, err))
		}
		if !slices.Contains(targets, s.target) {
			targets = append(targets, s.target)
		}
	}
	for _, iqn := range targets {
		if err := a.forget(iqn); err != nil {
			return code.New(code.Internal, "remove the node record of %s: %w", iqn, err)
		}
	}
	return nil
}

// removeDisk flushes a disk that nobody uses and takes it from the kernel.
func (a *Attacher) removeDisk(d disk, volumeID string) error {
	if len(d.holders) > 0 {
		return a.verify(d, volumeID)
	}
	if err := a.sync(filepath.Join(a.dev, d.name)); errors.Is(err, unix.EBUSY) {
		return code.New(code.InUse, "disk %s of volume %s is mounted or claimed", d.name, volumeID)
	} else if err != nil {
		a.log.Warn("flush before logout failed: writes that were not synced by their program may be lost", "volume", volumeID, "error", err)
	}
	if err := a.sys.write(d.name, "delete", "1"); err != nil {
		a.log.Warn("removing the disk before logout failed", "volume", volumeID, "error", err)
	}
	return nil
}

// forget removes the node records of a target. They hold a secret: they must not stay, whatever iscsiadm makes of them.
func (a *Attacher) forget(iqn string) error {
	deleteErr := a.tool.Delete(iqn)
	files, err := recordFiles(a.hostRoot, iqn)
	if err != nil {
		return errors.Join(deleteErr, err)
	}
	for _, f := range files {
		if err := os.Remove(f); err != nil {
			return errors.Join(deleteErr, err)
		}
	}
	return nil
}

// wait polls sysfs, which tells nobody of changes.
func (a *Attacher) wait(ctx context.Context, most time.Duration, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	tick := time.NewTicker(a.poll)
	defer tick.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", most, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// syncUnused writes what the page cache holds of a device, or returns EBUSY if somebody claims it.
func syncUnused(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Fsync(fd); err != nil {
		return fmt.Errorf("flush %s: %w", path, err)
	}
	return nil
}
