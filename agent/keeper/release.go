package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/iomesh/iomesh/agent/diskdir"
	"github.com/iomesh/iomesh/agent/signature"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// release takes a Releasing device back. done means that r is Erased or Retained now.
func (k *Keeper) release(ctx context.Context, in Input, r *record) (res Result, done bool, err error) {
	res = Result{ClaimState: v1alpha1.Released, Claim: &r.Claim, DiskID: r.DiskID}
	if err := k.step("remove entry"); err != nil {
		return res, false, err
	}
	if err := k.opts.Disks.Remove(in.Name); err != nil {
		return res, false, err
	}
	if r.HandedOver && in.Device != nil {
		status, err := k.opts.Disks.Status(in.Name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// The chunk never had it, or its status was removed in an earlier round. Opening it exclusively proves it.
		case err != nil:
			return res, false, err
		case status.State != diskdir.StateDetached:
			k.usage(&res, in.Name)
			return res, false, refuse("waiting for the chunk to let go of the disk (it is %s)%s", status.State, suffix(status.Message))
		}
	}
	r.Phase = erased
	switch {
	case in.Device == nil:
		// Whatever is on it will be seen when it comes back.
	case r.Claim.ReclaimPolicy == v1alpha1.ReclaimRetain:
		r.Phase = retained
	case r.HandedOver:
		if err := k.eraseOwn(ctx, in, r); err != nil {
			r.Phase = releasing
			return res, false, err
		}
	}
	if err := k.step("remove status"); err != nil {
		return res, false, err
	}
	if err := k.opts.Disks.RemoveStatus(in.Name); err != nil {
		return res, false, err
	}
	if err := k.save(r); err != nil {
		return res, false, err
	}
	k.opts.Log.Info("device released", "device", in.Name, "phase", r.Phase)
	return res, true, nil
}

func suffix(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
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
