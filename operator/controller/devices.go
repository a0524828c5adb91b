package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	corev1 "k8s.io/api/core/v1"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/devicemap"
	"github.com/iomesh/iomesh/operator/placement"
	"github.com/iomesh/iomesh/operator/view"
)

// States of a disk, in the metadata members' words.
const (
	diskActive   = "Active"
	diskDraining = "Draining"
	diskDrained  = "Drained"
	diskMissing  = "Missing"
	diskFailed   = "Failed"
	diskRemoved  = "Removed"
)

// deviceMap writes claims and takes disks that are no longer wanted one step on.
func (p *pass) deviceMap(ctx context.Context) error {
	decision, err := devicemap.Decide(devicemap.Input{
		Cluster: p.cluster, ClusterID: p.clusterID, Devices: p.devices, NodeAllowed: p.storageAllowed, NewUID: p.NewUID,
	})
	if err != nil {
		p.block("BadDeviceMap", "%v", err)
		return nil
	}
	p.decision = decision
	var errs []error
	for _, c := range decision.Claims {
		if err := p.applyClaim(ctx, c.Device, &c.Claim); err != nil {
			errs = append(errs, err)
			continue
		}
		p.event(corev1.EventTypeNormal, "DiskClaimed", "Claim", "claimed the device %s as %s", c.Device, c.Claim.MountType)
		for i := range p.devices {
			if p.devices[i].Name == c.Device {
				p.devices[i].Spec.Claim = &c.Claim
			}
		}
	}
	for _, name := range decision.Held {
		errs = append(errs, p.keepDisk(ctx, name))
	}
	for _, r := range decision.Releases {
		errs = append(errs, p.release(ctx, r))
	}
	errs = append(errs, p.forgetDisks(ctx))
	return errors.Join(errs...)
}

// storageAllowed reports whether a node may hold disks: chunk.podPolicy says so and it has an address in the storage network.
func (p *pass) storageAllowed(name string) (bool, string) {
	n := p.node(name)
	if n == nil {
		return false, "does not exist in Kubernetes"
	}
	if ok, reason := placement.Allowed(n, p.cluster.Spec.Chunk.PodPolicy); !ok {
		return false, reason
	}
	return true, ""
}

// applyClaim writes a claim, or with nil removes it. Server-side apply touches nothing but spec.claim.
func (p *pass) applyClaim(ctx context.Context, device string, claim *v1alpha1.Claim) error {
	spec := map[string]any{}
	if claim != nil {
		m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(claim)
		if err != nil {
			return fmt.Errorf("claim device %s: %w", device, err)
		}
		spec["claim"] = m
	}
	u := &unstructured.Unstructured{Object: map[string]any{"spec": spec}}
	u.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(v1alpha1.KindBlockDevice))
	u.SetNamespace(p.cluster.Namespace)
	u.SetName(device)
	err := p.Client.Apply(ctx, client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(v1alpha1.FieldOwnerOperator), client.ForceOwnership)
	if apierrors.IsInvalid(err) || apierrors.IsNotFound(err) {
		// Gone meanwhile: an apply would have to create it, which the schema refuses without node and identity.
		return &conflictError{fmt.Errorf("device %s: %w", device, err)}
	}
	if err != nil {
		return fmt.Errorf("write the claim of device %s: %w", device, err)
	}
	return nil
}

// disk is what the metadata members know of a device; nil: nothing.
func (p *pass) disk(device string) *storagedv1.Disk {
	for _, d := range p.status.GetDisks() {
		if d.GetName() == device && d.GetState() != diskRemoved {
			return d
		}
	}
	return nil
}

// keepDisk ends the drain of a disk that is wanted again.
func (p *pass) keepDisk(ctx context.Context, device string) error {
	d := p.disk(device)
	if d == nil || d.GetState() != diskDraining && d.GetState() != diskDrained {
		return nil
	}
	if err := p.storage.DrainDisk(ctx, d.GetId(), true); err != nil {
		return err
	}
	p.event(corev1.EventTypeNormal, "DrainCancelled", "Drain", "the device %s is wanted again: its drain is ended", device)
	return nil
}

// release takes a device on its way out one step on: drain at the metadata members, then remove the claim. What the agent
// does then is its own.
func (p *pass) release(ctx context.Context, r devicemap.Release) error {
	note := func(format string, args ...any) {
		p.draining = append(p.draining, fmt.Sprintf("%s on %s: ", r.Device, r.Node)+fmt.Sprintf(format, args...))
	}
	dev := p.device(r.Device)
	if p.status == nil {
		note("the metadata members do not answer, so it is not known whether data needs it")
		return nil
	}
	d := p.disk(r.Device)
	if d == nil && dev != nil && dev.Status.Claim == nil {
		return p.unclaim(ctx, r, note) // never got as far as being used
	}
	if d == nil {
		if dev.Status.DiskID == "" {
			return p.unclaim(ctx, r, note) // no chunk has formatted it
		}
		if len(p.status.GetDisks()) > 0 || p.status.GetVolumes() == 0 {
			return p.unclaim(ctx, r, note) // the members have forgotten it: nothing needs it
		}
		note("waiting for the metadata members to report its disk %s", dev.Status.DiskID)
		return nil
	}
	switch d.GetState() {
	case diskDrained:
		return p.unclaim(ctx, r, note)
	case diskFailed:
		// There is nothing to drain: what was on it is made elsewhere from the other replicas, unless it is the last copy (I15).
		if n := d.GetReplicas(); n > 0 {
			note("failed, %d replicas are still to be made elsewhere: %s", n, d.GetMessage())
			return nil
		}
		return p.unclaim(ctx, r, note)
	case diskDraining:
		note("draining, %d replicas left%s", d.GetReplicas(), drainProgress(p.status, d))
		return nil
	default:
		if err := p.storage.DrainDisk(ctx, d.GetId(), false); err != nil {
			note("%v", err)
			return nil // said in the status; tried again at the next pass
		}
		p.event(corev1.EventTypeNormal, "DrainStarted", "Drain", "draining the device %s on %s: %s", r.Device, r.Node, r.Reason)
		note("draining, %d replicas to move", d.GetReplicas())
		return nil
	}
}

func (p *pass) unclaim(ctx context.Context, r devicemap.Release, note func(string, ...any)) error {
	if err := p.applyClaim(ctx, r.Device, nil); err != nil {
		return err
	}
	p.event(corev1.EventTypeNormal, "DiskReleased", "Release", "released the device %s on %s: %s", r.Device, r.Node, r.Reason)
	note("released; its agent erases it")
	return nil
}

// forgetDisks lets the metadata members forget disks whose devices have been released.
func (p *pass) forgetDisks(ctx context.Context) error {
	for _, d := range p.status.GetDisks() {
		dev := p.device(d.GetName())
		switch {
		case d.GetState() != diskDrained && d.GetState() != diskMissing && d.GetState() != diskFailed:
			continue
		case dev == nil || dev.Spec.Claim != nil:
			continue // a device that is merely away keeps its disk
		case dev.Status.Claim != nil && p.node(dev.Spec.Node) != nil:
			p.draining = append(p.draining, fmt.Sprintf("%s on %s: waiting for its agent to erase it", dev.Name, dev.Spec.Node))
			continue
		}
		if err := p.storage.RemoveDisk(ctx, d.GetId()); err != nil {
			p.draining = append(p.draining, fmt.Sprintf("%s on %s: %v", dev.Name, dev.Spec.Node, err))
		}
	}
	return p.forgetDevices(ctx)
}

// forgetDevices removes the objects of released devices whose node has left Kubernetes: no agent is there to erase the device or to say
// that it is gone. Should the node come back, its agent publishes them anew, and their superblocks keep them from being taken by mistake.
func (p *pass) forgetDevices(ctx context.Context) error {
	var errs []error
	for i := range p.devices {
		dev := &p.devices[i]
		if dev.Spec.Claim != nil || dev.Status.Claim == nil || dev.DeletionTimestamp != nil || !devicemap.Owns(p.cluster, dev.Status.Claim) || p.node(dev.Spec.Node) != nil {
			continue
		}
		if err := p.Client.Delete(ctx, dev, client.Preconditions{UID: &dev.UID}); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("forget the device %s of the node %s, which has left: %w", dev.Name, dev.Spec.Node, err))
			continue
		}
		p.event(corev1.EventTypeNormal, "DeviceForgotten", "Forget", "forgot the device %s: its node %s has left Kubernetes", dev.Name, dev.Spec.Node)
	}
	return errors.Join(errs...)
}

// forgetNodes lets the metadata members forget nodes that are no storage nodes any more.
func (p *pass) forgetNodes(ctx context.Context) error {
	for _, n := range p.status.GetNodes() {
		name := n.GetName()
		if n.GetState() == "Online" || p.chunkPods[name] != nil || slices.ContainsFunc(p.chunkWaits, func(w wish) bool { return w.Node == name }) {
			continue
		}
		if slices.ContainsFunc(p.status.GetDisks(), func(d *storagedv1.Disk) bool { return d.GetNode() == name && d.GetState() != diskRemoved }) {
			continue
		}
		if err := p.storage.RemoveNode(ctx, name); err != nil {
			p.log.Warn("forget node", "node", name, "error", err)
		}
	}
	return nil
}

func (p *pass) device(name string) *v1alpha1.BlockDevice {
	for i := range p.devices {
		if p.devices[i].Name == name {
			return &p.devices[i]
		}
	}
	return nil
}

// drainProgress says how far a drain is, from the task list.
func drainProgress(st *storagedv1.ClusterStatus, d *storagedv1.Disk) string {
	for _, t := range st.GetTasks() {
		if t.GetKind() == "drain" && (t.GetObject() == d.GetId() || t.GetObject() == d.GetName()) && t.GetBytesTotal() > 0 {
			return fmt.Sprintf(", %s of %s moved", view.Bytes(t.GetBytesDone()), view.Bytes(t.GetBytesTotal()))
		}
	}
	return ""
}
