package node

import (
	"context"

	"github.com/iomesh/iomesh/csi/node/mode"
)

// Target is a LUN and how to log in to it.
type Target struct {
	VolumeID  string
	IQN       string
	LUN       uint32
	Portals   []string // host:port, tried in order; the first is the node's own redirector
	Initiator string
	ReadOnly  bool

	ChapUser, ChapSecret     string
	MutualUser, MutualSecret string
}

// Device is an attached LUN.
type Device struct {
	Path      string // /dev/sdX or /dev/loopN
	SizeBytes uint64
	// Trouble is why the device does not work, or "".
	Trouble string
}

// Attacher makes block devices of LUNs. Implemented by packages userspace and iscsi. Errors carry gRPC codes or kinds of package code.
type Attacher interface {
	// Attach is idempotent. The device it returns has been verified to be the volume's.
	Attach(context.Context, Target) (Device, error)
	// Detach flushes and removes; a volume that is not attached is a success, one that is in use FAILED_PRECONDITION.
	Detach(ctx context.Context, volumeID string) error
	// Find returns the volume's device, or false.
	Find(ctx context.Context, volumeID string) (Device, bool, error)
	// Resize makes the device as large as its LUN.
	Resize(ctx context.Context, volumeID string) (Device, error)
}

// Attachers are the ways of this node. Both may be present: volumes stay attached the way they were when the mode changes.
type Attachers map[mode.Mode]Attacher
