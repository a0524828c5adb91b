package node

import (
	"context"
	"fmt"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/iomesh/iomesh/csi/code"
)

// NodeExpandVolume implements csi.NodeServer: the device takes the volume's size over, then the filesystem the device's.
func (s *Service) NodeExpandVolume(ctx context.Context, in *csipb.NodeExpandVolumeRequest) (*csipb.NodeExpandVolumeResponse, error) {
	id := in.GetVolumeId()
	if id == "" {
		return nil, code.New(code.Invalid, "volume_id is missing")
	}
	// The path is only checked for being there, as CSI wants it: what is grown is the device and the staged mount.
	if in.GetVolumePath() == "" {
		return nil, code.New(code.Invalid, "volume_path is missing")
	}
	rec, err := s.staged(id)
	if err != nil {
		return nil, err
	}
	attacher, err := s.attacher(rec.Mode)
	if err != nil {
		return nil, err
	}
	d, err := attacher.Resize(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("expand volume %s: %w", id, err)
	}
	if want := in.GetCapacityRange().GetRequiredBytes(); want > 0 && d.SizeBytes < uint64(want) {
		return nil, code.New(code.Unavailable, "the device %s of volume %s has %d bytes, %d are asked for: the volume was not expanded yet", d.Path, id, d.SizeBytes, want)
	}
	if !rec.Block && !rec.ReadOnly {
		at, mounted, err := s.fs.At(rec.Staging)
		if err != nil {
			return nil, err
		}
		number, err := deviceNumber(d.Path)
		if err != nil {
			return nil, err
		}
		if !mounted || at.Dead || at.Dev != number {
			return nil, code.New(code.InUse, "volume %s is not mounted at %s", id, rec.Staging)
		}
		if err := s.fs.Grow(ctx, d.Path, rec.Staging); err != nil {
			return nil, fmt.Errorf("expand volume %s: %w", id, err)
		}
	}
	return &csipb.NodeExpandVolumeResponse{CapacityBytes: int64(d.SizeBytes)}, nil
}
