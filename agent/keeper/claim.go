package keeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/signature"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/diskdir"
)

// claim carries out in.Wish. r is nil or Preparing or Prepared.
func (k *Keeper) claim(ctx context.Context, in Input, r *record) (Result, error) {
	res := Result{ClaimState: stateOf(in), Claim: in.Acted, DiskID: in.DiskID, Health: v1alpha1.DeviceHealthUnknown}
	if r != nil && r.Claim.UID != in.Wish.UID {
		switch {
		case r.Phase == preparing:
			// Nothing was handed over; the new claim is judged on its own.
			r = nil
		case r.Claim.ClusterRef.ClusterID != in.Wish.ClusterRef.ClusterID:
			return res, refuse("in use by cluster %s (%s); remove it there before cluster %s can have it",
				r.Claim.ClusterRef.Name, r.Claim.ClusterRef.ClusterID, in.Wish.ClusterRef.Name)
		case r.Claim.MountType != in.Wish.MountType:
			return res, refuse("in use as %s; release it before it is used as %s", r.Claim.MountType, in.Wish.MountType)
		}
	}
	if r == nil {
		var err error
		if r, err = k.begin(in); err != nil {
			return res, err
		}
	}
	if r.Phase == preparing {
		if in.Device == nil {
			return res, refuse("the device is not there")
		}
		if err := k.prepare(ctx, in, r); err != nil {
			return res, err
		}
	}
	return k.use(in, r)
}

// begin judges a claim that has not been acted on here and records the decision.
func (k *Keeper) begin(in Input) (*record, error) {
	if in.Device == nil {
		return nil, refuse("the device is not there")
	}
	id := in.Device.Identity()
	if got := id.Fingerprint(); got != in.Wish.Fingerprint {
		return nil, refuse("the claim is for another device: it names fingerprint %s, this one (%s) has %s", in.Wish.Fingerprint, describe(in.Device), got)
	}
	if len(in.Blocked) > 0 {
		texts := make([]string, len(in.Blocked))
		for i, b := range in.Blocked {
			texts[i] = b.Message
		}
		return nil, refuse("cannot be used: %s", strings.Join(texts, "; "))
	}
	r := &record{Name: in.Name, ObjectUID: in.ObjectUID, Claim: *in.Wish}
	own := id.Superblock != nil && id.Superblock.ClusterID == in.Wish.ClusterRef.ClusterID && id.Superblock.ClusterID != ""
	named := id.ContentFingerprint() == in.Wish.ContentFingerprint
	again := in.Acted != nil && in.Acted.UID == in.Wish.UID
	switch {
	case own && (again || !in.Wish.Wipe || !named):
		// A disk of this very cluster, whose record was lost or which came from another node. It is kept.
		r.Phase, r.HandedOver, r.DiskID = prepared, true, id.Superblock.DiskID
	case again && in.DiskID != "":
		return nil, refuse("the disk %s that was here is gone: the device holds %s now; if its content is lost for good, release it (remove it from the device map) and map it again",
			in.DiskID, contentText(id))
	case again && id.Blank():
		r.Phase, r.Format = preparing, true
	case !named:
		return nil, refuse("the content has changed since the claim was made: the device holds %s now", contentText(id))
	case id.Blank():
		r.Phase, r.Format = preparing, true
	case !in.Wish.Wipe:
		return nil, refuse("the device holds %s and the claim does not allow to erase it", contentText(id))
	default:
		r.Phase, r.Format, r.Signatures = preparing, true, in.Device.Signatures
	}
	if err := k.save(r); err != nil {
		return nil, err
	}
	return r, nil
}

// prepare makes the device blank and marks it Prepared. What it erases was recorded by begin.
func (k *Keeper) prepare(ctx context.Context, in Input, r *record) error {
	if len(in.Blocked) > 0 {
		return refuse("cannot be used: %s", in.Blocked[0].Message)
	}
	disk, now, err := k.open(ctx, in.Device, r.Claim.Fingerprint)
	if err != nil {
		return err
	}
	defer disk.Close()
	found, err := signature.Probe(disk, now.SizeBytes)
	if err != nil {
		return fmt.Errorf("read the content of %s: %w", now.Path, err)
	}
	var named []signature.Found
	for _, f := range found {
		ok := slices.ContainsFunc(r.Signatures, func(s signature.Found) bool { return s.Token() == f.Token() })
		// What an interrupted erasure leaves may be no signature any more.
		if f.Kind == signature.KindUnknown && len(r.Signatures) > 0 {
			ok = true
		}
		if !ok {
			return refuse("the content has changed since the claim was made: %s at %d was not there", f, f.OffsetBytes)
		}
		named = append(named, f)
	}
	if len(found) > 0 {
		if err := k.step("erase"); err != nil {
			return err
		}
		k.opts.Log.Info("erasing what the claim names", "device", in.Name, "path", now.Path, "content", contentText(now.Identity()))
		if err := signature.Erase(disk, now.SizeBytes, named); err != nil {
			return fmt.Errorf("erase %s: %w", now.Path, err)
		}
	}
	if err := disk.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", now.Path, err)
	}
	left, err := signature.Probe(disk, now.SizeBytes)
	if err != nil {
		return fmt.Errorf("verify %s: %w", now.Path, err)
	}
	if len(left) > 0 {
		return fmt.Errorf("%s still holds %s after it was erased: does the device take writes?", now.Path, left[0])
	}
	if len(now.Partitions) > 0 {
		if err := disk.RereadPartitions(); err != nil {
			return fmt.Errorf("make the kernel forget the partitions of %s: %w", now.Path, err)
		}
	}
	r.Phase, r.Signatures, r.HandedOver = prepared, nil, true
	return k.save(r)
}

// use keeps the chunk's entry of a Prepared device up to date.
func (k *Keeper) use(in Input, r *record) (Result, error) {
	res := Result{ClaimState: v1alpha1.Claimed, Claim: in.Wish, DiskID: r.DiskID}
	status, reported := k.usage(&res, in.Name)
	changed := r.Claim != *in.Wish || r.ObjectUID != in.ObjectUID
	r.Claim, r.ObjectUID = *in.Wish, in.ObjectUID
	if reported && status.DiskID != "" && (r.Format || r.DiskID != status.DiskID) && status.State != diskdir.StateRefused {
		r.Format, r.DiskID, changed = false, status.DiskID, true
		res.DiskID = r.DiskID
	}
	if changed {
		if err := k.save(r); err != nil {
			return res, err
		}
	}
	if in.Device == nil {
		if res.Message == "" {
			res.Message = "the device is not there"
		}
		res.Health = v1alpha1.DeviceFailing
		return res, nil
	}
	id := in.Device.Identity()
	if got := id.Fingerprint(); got != r.Claim.Fingerprint {
		return res, refuse("the device has another size or identity (%s) than when it was claimed; its entry is left as it was", describe(in.Device))
	}
	return res, k.putEntry(in, r)
}

// putEntry writes the chunk's entry of a device if it is not there as it should be.
func (k *Keeper) putEntry(in Input, r *record) error {
	id := in.Device.Identity()
	want := diskdir.Entry{
		Name: in.Name, Device: in.Device.Path, MountType: string(r.Claim.MountType), SizeBytes: id.SizeBytes,
		Identity: diskdir.Identity{Serial: id.Serial, WWN: id.WWN, Model: id.Model},
		Format:   r.Format, ClusterID: r.Claim.ClusterRef.ClusterID, DiskID: r.DiskID,
	}
	// Files that are no entries are somebody else's problem, and the chunk's to report.
	have, _ := diskdir.Entries(k.opts.DiskDir)
	if slices.Contains(have, want) {
		return nil
	}
	if err := k.step("put entry"); err != nil {
		return err
	}
	if err := diskdir.WriteEntry(k.opts.DiskDir, want); err != nil {
		return err
	}
	k.opts.Log.Info("disk entry written", "device", in.Name, "path", want.Device, "mountType", want.MountType, "format", want.Format)
	return nil
}

// open opens a device exclusively and reads its identity again: only then nobody else can have it and its name cannot mean another disk.
func (k *Keeper) open(ctx context.Context, d *blockdev.Device, fingerprint string) (Disk, *blockdev.Device, error) {
	disk, err := k.opts.Devices.OpenExclusive(d)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s exclusively: %w", d.Path, err)
	}
	now, err := k.opts.Devices.Lookup(ctx, d.KernelName)
	if err == nil && (now.DiskSeq != d.DiskSeq || now.Major != d.Major || now.Minor != d.Minor) {
		err = errors.New("the kernel has given the name to another device meanwhile")
	}
	if err == nil {
		id := now.Identity()
		if got := id.Fingerprint(); got != fingerprint {
			err = refuse("%s is another device now (%s)", d.Path, describe(now))
		}
	}
	if err != nil {
		disk.Close()
		return nil, nil, fmt.Errorf("look at %s again: %w", d.Path, err)
	}
	return disk, now, nil
}

// describe names a device for people.
func describe(d *blockdev.Device) string {
	words := []string{d.Path}
	for _, s := range []string{d.Key.Vendor, d.Key.Model, d.Key.Serial, d.Key.WWN, d.Key.BackingFile} {
		if s != "" {
			words = append(words, s)
		}
	}
	return strings.Join(append(words, blockdev.SizeText(d.SizeBytes)), " ")
}

// contentText says what is on a device.
func contentText(id v1alpha1.Identity) string {
	var words []string
	if id.PartitionTable != "" {
		words = append(words, fmt.Sprintf("a %s table with %d partitions", id.PartitionTable, len(id.Partitions)))
	}
	if id.Filesystem != "" {
		words = append(words, strings.ReplaceAll(id.Filesystem, ",", ", "))
	}
	if id.Superblock != nil {
		words = append(words, "a disk of cluster "+id.Superblock.ClusterID)
	}
	if len(words) == 0 {
		return "nothing"
	}
	return strings.Join(words, " and ")
}
