package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/csi/code"
	"github.com/iomesh/iomesh/csi/controller"
	"github.com/iomesh/iomesh/csi/node/fsops"
	"github.com/iomesh/iomesh/csi/params"
)

// NodeStageVolume implements csi.NodeServer.
func (s *Service) NodeStageVolume(ctx context.Context, in *csipb.NodeStageVolumeRequest) (*csipb.NodeStageVolumeResponse, error) {
	id, staging := in.GetVolumeId(), in.GetStagingTargetPath()
	if id == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	if err := checkPath("staging_target_path", staging); err != nil {
		return nil, err
	}
	c, err := params.ParseCapability(in.GetVolumeCapability())
	if err != nil {
		return nil, err
	}
	if !volumeID(id) {
		return nil, code.New(code.NotFound, "volume %s does not exist", id)
	}
	target, err := s.target(ctx, in)
	if err != nil {
		return nil, err
	}
	rec, known, err := s.records.load(id)
	if err != nil {
		return nil, err
	}
	if !known {
		rec = record{VolumeID: id, Mode: s.opts.Mode}
	} else if rec.Block != c.Block {
		return nil, code.New(code.Conflict, "volume %s is staged at %s with another volume mode", id, rec.Staging)
	}
	rec.IQN, rec.Block, rec.ReadOnly, rec.Staging = target.IQN, c.Block, target.ReadOnly, staging
	if !c.Block {
		rec.FSType = c.FSType
	}
	if err := s.records.save(rec); err != nil {
		return nil, err
	}
	if err := s.step(stepRecorded); err != nil {
		return nil, err
	}
	attacher, err := s.attacher(rec.Mode)
	if err != nil {
		return nil, err
	}
	device, err := attacher.Attach(ctx, target)
	if err == nil {
		if err = s.step(stepAttached); err != nil {
			return nil, err
		}
		if !c.Block {
			err = s.mount(ctx, &rec, c, device, staging)
		}
	}
	if err != nil {
		var killed *stepError
		if !errors.As(err, &killed) {
			s.takeBack(ctx, attacher, rec)
		}
		return nil, fmt.Errorf("stage volume %s: %w", id, err)
	}
	return &csipb.NodeStageVolumeResponse{}, nil
}

// stepError marks an error of Options.Step that came up through other code.
type stepError struct{ error }

func (e *stepError) Unwrap() error { return e.error }

// target joins what the controller published with the grant's secret.
func (s *Service) target(ctx context.Context, in *csipb.NodeStageVolumeRequest) (Target, error) {
	pc := in.GetPublishContext()
	t := Target{VolumeID: in.GetVolumeId(), IQN: pc[controller.PublishIQN], Initiator: s.initiator, ReadOnly: pc[controller.PublishReadOnly] == "true"}
	lun, err := strconv.ParseUint(pc[controller.PublishLUN], 10, 14)
	if err != nil || t.IQN == "" {
		return Target{}, code.New(code.Invalid, "publish_context names no target: it has to be what ControllerPublishVolume returned")
	}
	t.LUN = uint32(lun)
	if s.opts.Portal != "" {
		t.Portals = append(t.Portals, s.opts.Portal)
	}
	for _, p := range strings.Split(pc[controller.PublishPortals], ",") {
		if p != "" && p != s.opts.Portal {
			t.Portals = append(t.Portals, p)
		}
	}
	grant, err := s.opts.Grants.GetGrant(ctx, &storagedv1.GetGrantRequest{VolumeId: t.VolumeID, Initiator: s.initiator, Node: s.opts.Node})
	if code.Of(err) == codes.NotFound {
		return Target{}, code.New(code.InUse, "volume %s is not published to node %s: %w", t.VolumeID, s.opts.Node, err)
	}
	if err != nil {
		return Target{}, fmt.Errorf("fetch the grant of volume %s: %w", t.VolumeID, err)
	}
	t.ReadOnly = t.ReadOnly || grant.GetMode() == storagedv1.AccessMode_ACCESS_MODE_READ_ONLY
	t.ChapUser, t.ChapSecret = grant.GetChapUser(), grant.GetChapSecret()
	t.MutualUser, t.MutualSecret = grant.GetMutualUser(), grant.GetMutualSecret()
	if in.GetVolumeContext()[controller.ContextAuth] == "true" {
		// The user's own proof, not the store's: who cannot name the secret does not get the volume.
		t.ChapUser, t.ChapSecret = in.GetSecrets()["username"], in.GetSecrets()["password"]
		if t.ChapUser == "" || t.ChapSecret == "" {
			return Target{}, code.New(code.Invalid, `auth is "true": the Secret of csi.storage.k8s.io/node-stage-secret-name must hold "username" and "password"`)
		}
	}
	return t, nil
}

// mount makes the filesystem of a device appear at the staging path.
func (s *Service) mount(ctx context.Context, rec *record, c params.Capability, device Device, staging string) error {
	number, err := deviceNumber(device.Path)
	if err != nil {
		return err
	}
	at, mounted, err := s.fs.At(staging)
	if err != nil {
		return err
	}
	if mounted && !at.Dead && at.Dev == number {
		if at.FSType != c.FSType {
			return code.New(code.Conflict, "volume %s is mounted at %s as %s, not %s", rec.VolumeID, staging, at.FSType, c.FSType)
		}
		return nil
	}
	if mounted {
		// The device of an attachment that died (of a restarted attacher). Nobody can write to it any more.
		s.log.Warn("replacing a mount whose device is not the volume's any more", "volume", rec.VolumeID, "path", staging)
		if err := s.fs.Drop(staging); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(staging, 0o750); err != nil {
		return code.New(code.Internal, "make staging path: %w", err)
	}
	err = s.fs.Mount(ctx, fsops.Request{
		Device: device.Path, Target: staging, FSType: c.FSType, Flags: c.MountFlags, ReadOnly: rec.ReadOnly, Interrupted: rec.Formatting,
		Formatting: func() error {
			rec.Formatting = true
			if err := s.records.save(*rec); err != nil {
				return err
			}
			if err := s.step(stepFormatting); err != nil {
				return &stepError{err}
			}
			return nil
		},
	})
	if err != nil {
		return err
	}
	if err := s.step(stepMounted); err != nil {
		return &stepError{err}
	}
	if rec.Formatting {
		rec.Formatting = false
		return s.records.save(*rec)
	}
	return nil
}

// takeBackTimeout bounds the removal of what a failed stage attached.
const takeBackTimeout = 20 * time.Second

// takeBack removes what a failed stage made, as far as possible. A begun format is remembered instead: only this node's record
// tells it from foreign data.
func (s *Service) takeBack(ctx context.Context, attacher Attacher, rec record) {
	if rec.Formatting || len(rec.Published) > 0 {
		return
	}
	if _, mounted, err := s.fs.At(rec.Staging); err != nil || mounted {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTimeout)
	defer cancel()
	if err := attacher.Detach(ctx, rec.VolumeID); err != nil {
		s.log.Warn("a failed stage left its device attached; unstage removes it", "volume", rec.VolumeID, "error", err)
		return
	}
	if err := s.records.remove(rec.VolumeID); err != nil {
		s.log.Warn("a failed stage left its record", "volume", rec.VolumeID, "error", err)
	}
}

// deviceNumber is the number of a device node, as stat reports it for files on that device.
func deviceNumber(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, code.New(code.Internal, "device %s: %w (is /dev of the host mounted in the container?)", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, code.New(code.Internal, "%s is no block device", path)
	}
	return st.Rdev, nil
}

// NodeUnstageVolume implements csi.NodeServer.
func (s *Service) NodeUnstageVolume(ctx context.Context, in *csipb.NodeUnstageVolumeRequest) (*csipb.NodeUnstageVolumeResponse, error) {
	id, staging := in.GetVolumeId(), in.GetStagingTargetPath()
	if id == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	if err := checkPath("staging_target_path", staging); err != nil {
		return nil, err
	}
	done := &csipb.NodeUnstageVolumeResponse{}
	if err := s.fs.Unmount(staging); err != nil {
		return nil, fmt.Errorf("unstage volume %s: %w", id, err)
	}
	if !volumeID(id) {
		return done, nil
	}
	if err := s.step(stepUnmounted); err != nil {
		return nil, err
	}
	rec, known, err := s.records.load(id)
	if err != nil {
		return nil, err
	}
	if err := s.detach(ctx, id, rec, known); err != nil {
		return nil, fmt.Errorf("unstage volume %s: %w", id, err)
	}
	return done, nil
}

// detach removes the device of a volume and forgets the volume. Without a record every way is asked.
func (s *Service) detach(ctx context.Context, id string, rec record, known bool) error {
	if known {
		attacher, err := s.attacher(rec.Mode)
		if err != nil {
			return err
		}
		if err := attacher.Detach(ctx, id); err != nil {
			return err
		}
	} else {
		for m, attacher := range s.opts.Attachers {
			err := attacher.Detach(ctx, id)
			if err != nil && m != s.opts.Mode && code.Of(err) == codes.Unavailable {
				continue // a way that is not in use here, and does not run
			}
			if err != nil {
				return err
			}
		}
	}
	if err := s.step(stepDetached); err != nil {
		return err
	}
	return s.records.remove(id)
}
