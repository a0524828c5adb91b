package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/agent/signature"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/diskdir"
)

// release takes a Releasing device back. done means that r is Erased or Retained now.
func (k *Keeper) release(ctx context.Context, in Input, r *record) (res Result, done bool, err error) {
	res = Result{ClaimState: v1alpha1.Released, Claim: &r.Claim, DiskID: r.DiskID}
	if in.Device != nil {
		if id := in.Device.Identity(); id.Fingerprint() != r.Claim.Fingerprint {
			// The disk that was given is gone, or has become another one (a dying one may report another size): what is there now is not ours
			// to touch.
			in.Device = nil
		}
	}
	if r.HandedOver && in.Device != nil {
		if err := k.awaitChunk(in, r, &res); err != nil {
			return res, false, err
		}
	} else if err := k.removeEntry(in.Name); err != nil {
		return res, false, err
	}
	r.Phase = erased
	switch {
	case in.Device == nil:
		// Whatever is on it will be seen when it comes back.
	case r.Claim.ReclaimPolicy == v1alpha1.ReclaimRetain:
		r.Phase = retained
	case r.HandedOver:
		err := k.eraseOwn(ctx, in, r)
		if errors.Is(err, unix.EIO) {
			// A disk that cannot be written any more keeps what is on it. It must not keep its place in the cluster for that.
			k.opts.Log.Warn("the device cannot be erased: it fails; destroy it if its data must not be read", "device", in.Name, "error", err)
			err = nil
		}
		if err != nil {
			r.Phase = releasing
			return res, false, err
		}
	}
	if err := k.step("remove status"); err != nil {
		return res, false, err
	}
	if err := diskdir.RemoveStatus(k.opts.DiskDir, in.Name); err != nil {
		return res, false, err
	}
	if err := k.save(r); err != nil {
		return res, false, err
	}
	k.opts.Log.Info("device released", "device", in.Name, "phase", r.Phase)
	return res, true, nil
}

func (k *Keeper) removeEntry(name string) error {
	if _, err := os.Lstat(filepath.Join(k.opts.DiskDir, name+".json")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := k.step("remove entry"); err != nil {
		return err
	}
	return diskdir.RemoveEntry(k.opts.DiskDir, name)
}

// statusFresh is how old the status of a living chunk can be: it is written at least each 30 seconds.
const statusFresh = 2 * time.Minute

// awaitChunk takes the entry away and returns nil once the chunk has let go of the device.
func (k *Keeper) awaitChunk(in Input, r *record, res *Result) error {
	status, err := diskdir.ReadStatus(k.opts.DiskDir, in.Name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	known := err == nil
	silent := k.opts.Now().Sub(status.Time) > statusFresh
	if known && silent && (status.State == diskdir.StateActive || status.State == diskdir.StateStalled) && status.Replicas > 0 {
		// Its chunk is down. Without an entry it would not open the disk when it comes back, and could not tell whether a volume needs it.
		k.usage(res, in.Name)
		if err := k.putEntry(in, r); err != nil {
			return err
		}
		return refuse("the disk held %d replicas when its chunk was last heard of at %s; waiting for the chunk", status.Replicas, status.Time.UTC().Format(time.RFC3339))
	}
	if err := k.removeEntry(in.Name); err != nil {
		return err
	}
	if !known || silent || status.State == diskdir.StateReleased || status.State == diskdir.StateRefused {
		return nil // that nobody has it open is proved by opening it exclusively
	}
	k.usage(res, in.Name)
	text := "waiting for the chunk to let go of the disk"
	if status.Message != "" {
		text += ": " + status.Message
	}
	return refusal{text}
}

// eraseOwn removes the superblocks of the cluster that had the device, and nothing else.
func (k *Keeper) eraseOwn(ctx context.Context, in Input, r *record) error {
	disk, now, err := k.open(ctx, in.Device, r.Claim.Fingerprint)
	if err != nil {
		return err
	}
	defer disk.Close()
	found, err := signature.Probe(disk, now.SizeBytes)
	if err != nil {
		return fmt.Errorf("read the content of %s: %w", now.Path, err)
	}
	ours := false
	for _, f := range found {
		switch {
		case f.Kind == signature.KindIOMesh && f.UUID == r.Claim.ClusterRef.ClusterID && (r.DiskID == "" || f.DiskID == r.DiskID):
			ours = true
		case f.Kind == signature.KindIOMesh && f.UUID == "":
			// A damaged copy. It goes with an intact one, and stays without.
		default:
			return refuse("not erased: %s holds %s, which is not what this cluster wrote (disk %s of cluster %s)", now.Path, f, r.DiskID, r.Claim.ClusterRef.ClusterID)
		}
	}
	if !ours {
		return nil
	}
	if err := k.step("erase own"); err != nil {
		return err
	}
	if err := signature.Clear(disk, now.SizeBytes); err != nil {
		return fmt.Errorf("erase %s: %w", now.Path, err)
	}
	if err := disk.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", now.Path, err)
	}
	return nil
}

// afterRelease reports an Erased or Retained device until the object says so too, and then forgets the claim.
func (k *Keeper) afterRelease(in Input, r *record) (Result, error) {
	res := Result{ClaimState: v1alpha1.Unclaimed, Health: v1alpha1.DeviceHealthUnknown}
	if r.Phase == retained && in.Device != nil {
		if id := in.Device.Identity(); id.Superblock != nil && id.Superblock.ClusterID == r.Claim.ClusterRef.ClusterID {
			res.ClaimState, res.Claim, res.DiskID = v1alpha1.Released, &r.Claim, r.DiskID
			res.Message = "released, content kept (reclaimPolicy Retain); erase the device to use it for something else"
			return res, nil
		}
	}
	if in.Acted != nil {
		return res, nil // the record stays until this result is published
	}
	return res, k.forget(in.Name)
}
