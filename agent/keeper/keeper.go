package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/diskdir"
)

// Disk is a device open exclusively.
type Disk interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	// RereadPartitions makes the kernel look at the partition table again.
	RereadPartitions() error
	Close() error
}

// Devices opens devices and looks at them again.
type Devices interface {
	// OpenExclusive fails when anybody has the device mounted or open exclusively, or when it is not the device of the scan any more.
	OpenExclusive(d *blockdev.Device) (Disk, error)
	// Lookup returns the device that the kernel calls by this name now.
	Lookup(ctx context.Context, kernelName string) (*blockdev.Device, error)
}

// Options of a Keeper.
type Options struct {
	StateDir string // records are in StateDir/claims
	DiskDir  string // the chunk's disk directory
	Devices  Devices
	Now      func() time.Time
	Log      *slog.Logger
	// BeforeStep is called before each step that changes something; an error ends the round there, as a kill would. Tests use it; nil otherwise.
	BeforeStep func(step string) error
}

// Keeper carries out claims; see the package comment.
type Keeper struct{ opts Options }

// New returns a Keeper.
func New(opts Options) *Keeper { return &Keeper{opts: opts} }

// Input is one device and what is wished for it.
type Input struct {
	Name      string
	ObjectUID string
	Wish      *v1alpha1.Claim  // spec.claim
	Acted     *v1alpha1.Claim  // status.claim
	DiskID    string           // status.diskID
	Device    *blockdev.Device // nil when it is not there
	// Blocked are reasons that no claim overrides: somebody uses the device, or it must not be used.
	Blocked []v1alpha1.Reason
}

// Result is what the object's status says about the claim.
type Result struct {
	ClaimState v1alpha1.ClaimState
	Claim      *v1alpha1.Claim
	DiskID     string
	Usage      *v1alpha1.DeviceUsage
	Health     v1alpha1.DeviceHealth
	Message    string // why the claim is not carried out
}

func (k *Keeper) step(name string) error {
	if k.opts.BeforeStep != nil {
		return k.opts.BeforeStep(name)
	}
	return nil
}

// refusal is an error that is the answer to the claim and not a failure of the agent.
type refusal struct{ text string }

func (r refusal) Error() string { return r.text }

func refuse(format string, args ...any) error { return refusal{fmt.Sprintf(format, args...)} }

// Reconcile takes the device as far towards its wish as it can now. It is called each round for every published device and every record; all
// steps are idempotent. The error is for what a later round may do better; Result is valid with it.
func (k *Keeper) Reconcile(ctx context.Context, in Input) (Result, error) {
	r, err := k.load(in.Name)
	if err != nil {
		return Result{ClaimState: stateOf(in), Claim: in.Acted, DiskID: in.DiskID, Health: v1alpha1.DeviceHealthUnknown, Message: err.Error()}, err
	}
	res, err := k.reconcile(ctx, in, r)
	if err != nil {
		res.Message = err.Error()
		var no refusal
		if errors.As(err, &no) {
			err = nil
		}
	}
	return res, err
}

// stateOf is the claim state that the object has now.
func stateOf(in Input) v1alpha1.ClaimState {
	if in.Acted != nil {
		return v1alpha1.Claimed
	}
	return v1alpha1.Unclaimed
}

func (k *Keeper) reconcile(ctx context.Context, in Input, r *record) (Result, error) {
	if r != nil && r.Phase == releasing {
		if res, done, err := k.release(ctx, in, r); !done || err != nil {
			return res, err
		}
	}
	if r != nil && (r.Phase == erased || r.Phase == retained) {
		if in.Wish == nil || in.Wish.UID == r.Claim.UID {
			return k.afterRelease(in, r)
		}
		if err := k.forget(in.Name); err != nil {
			return Result{ClaimState: v1alpha1.Unclaimed}, err
		}
		r, in.Acted, in.DiskID = nil, nil, ""
	}
	if in.Wish != nil {
		return k.claim(ctx, in, r)
	}
	switch {
	case r == nil && in.Acted == nil:
		return Result{ClaimState: v1alpha1.Unclaimed, Health: v1alpha1.DeviceHealthUnknown}, nil
	case r == nil:
		// Acted on in another life of this node: what was handed over then is taken back by its superblock.
		r = &record{Name: in.Name, Claim: *in.Acted, HandedOver: true, DiskID: in.DiskID}
	case in.Acted == nil && r.ObjectUID != in.ObjectUID:
		return Result{ClaimState: v1alpha1.Unclaimed, Health: v1alpha1.DeviceHealthUnknown, DiskID: r.DiskID,
			Message: fmt.Sprintf("in use by cluster %s, whose claim was in an earlier object; it stays in use and waits to be claimed again", r.Claim.ClusterRef.Name)}, nil
	}
	r.Phase = releasing
	if err := k.save(r); err != nil {
		return Result{ClaimState: v1alpha1.Claimed, Claim: &r.Claim, DiskID: r.DiskID}, err
	}
	k.opts.Log.Info("claim removed: releasing", "device", in.Name, "cluster", r.Claim.ClusterRef.ClusterID, "disk", r.DiskID)
	res, done, err := k.release(ctx, in, r)
	if !done || err != nil {
		return res, err
	}
	return k.afterRelease(in, r)
}

// usage reads the chunk's status file into a result.
func (k *Keeper) usage(res *Result, name string) (diskdir.Status, bool) {
	s, err := diskdir.ReadStatus(k.opts.DiskDir, name)
	if err != nil {
		res.Health = v1alpha1.DeviceHealthUnknown
		if !errors.Is(err, fs.ErrNotExist) {
			res.Message = err.Error()
		}
		return s, false
	}
	res.Usage = &v1alpha1.DeviceUsage{State: s.State, Message: s.Message, SizeBytes: s.SizeBytes, UsedBytes: s.UsedBytes}
	switch s.State {
	case diskdir.StateActive:
		res.Health = v1alpha1.DeviceHealthy
	case diskdir.StateStalled:
		res.Health = v1alpha1.DeviceUnhealthy
	case diskdir.StateFailed:
		res.Health = v1alpha1.DeviceFailing
	default:
		res.Health = v1alpha1.DeviceHealthUnknown
	}
	if s.State != diskdir.StateActive && s.Message != "" {
		res.Message = s.Message
	}
	return s, true
}
