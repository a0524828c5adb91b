package command

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/diskmap"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// carryOut shows a plan, has it confirmed, reads the disks again and applies the plan, if they are as they were. A cluster that Argo CD or
// Flux manages is not edited: the values to commit there are printed.
func (e *Env) carryOut(ctx context.Context, l *link.Link, c *v1alpha1.IOMeshCluster, plan *diskmap.Plan, name, confirm, question string, show func(output.Value) error) error {
	if err := show(plan); err != nil {
		return err
	}
	if by := managedBy(c); by.gitops != "" {
		fmt.Fprintln(e.Streams.ErrOut, "Values to commit:")
		b, err := yaml.Marshal(mapValues(plan))
		if err != nil {
			return fmt.Errorf("encode values: %w", err)
		}
		fmt.Fprint(e.Streams.ErrOut, string(b))
		return fault.Failed(nil, "commit the values above there; disks chosen one by one need the label "+diskmap.LabelMap+"="+string(plan.MountType),
			"cluster %s is managed by %s and is not edited here", c.Name, by.gitops)
	}
	if err := e.confirmed(name, confirm, question); err != nil {
		return err
	}
	// What was reviewed must still hold: the review takes as long as a person takes.
	devices, err := l.ListDevices(ctx)
	if err != nil {
		return err
	}
	if err := plan.Verify(devices); err != nil {
		return fault.Failed(err, "make a new plan", "nothing was applied")
	}
	return e.applyMap(ctx, l, c, plan)
}

// waitReleased waits until the disks are given back, those taken are in use, and every volume has all its replicas.
func (e *Env) waitReleased(ctx context.Context, l *link.Link, leaving []string, p *diskmap.Plan, timeout time.Duration) error {
	start := e.Now()
	err := e.await(ctx, timeout, func(ctx context.Context) (string, bool, error) {
		devices, err := l.ListDevices(ctx)
		if err != nil {
			return "", false, err
		}
		gone, what := 0, ""
		for _, name := range leaving {
			d := deviceNamed(devices, name)
			if d == nil || d.Spec.Claim == nil && d.Status.Claim == nil {
				gone++
			} else if what == "" {
				what = e.leaving(ctx, l, d)
			}
		}
		text := fmt.Sprintf("%d of %d disks released", gone, len(leaving))
		if what != "" {
			text += "; " + what
		}
		return text, gone == len(leaving), nil
	})
	if err != nil {
		return err
	}
	left := func() time.Duration { return timeout - e.Now().Sub(start) }
	if len(p.Takes) > 0 {
		if err := e.waitMapped(ctx, l, p, left()); err != nil {
			return err
		}
	}
	return e.waitRedundant(ctx, l, left())
}

// leaving says how far a disk is on its way out.
func (e *Env) leaving(ctx context.Context, l *link.Link, d *v1alpha1.BlockDevice) string {
	text := fmt.Sprintf("disk %s (%s on %s): ", d.Name, d.Spec.Path, d.Spec.Node)
	if d.Spec.Claim == nil {
		return text + cmp.Or(d.Status.Message, "its agent has still to erase it; if the node does not come back: kubectl delete node "+d.Spec.Node)
	}
	st, err := l.StorageStatus(ctx)
	if err != nil {
		return text + "the block service was not asked: " + err.Error()
	}
	for _, x := range st.GetDisks() {
		if x.GetName() == d.Name || x.GetId() == d.Status.DiskID {
			text += strings.ToLower(x.GetState()) + fmt.Sprintf(", %d replicas left", x.GetReplicas())
			if x.GetMessage() != "" {
				text += ", " + x.GetMessage()
			}
			return text
		}
	}
	return text + "not known to the block service"
}

// waitRedundant waits until no volume lacks a replica.
func (e *Env) waitRedundant(ctx context.Context, l *link.Link, timeout time.Duration) error {
	return e.await(ctx, timeout, func(ctx context.Context) (string, bool, error) {
		st, err := l.StorageStatus(ctx)
		if err != nil {
			return "", false, err
		}
		if n := st.GetVolumesDegraded() + st.GetVolumesUnavailable(); n > 0 || st.GetResyncBytesLeft() > 0 {
			return fmt.Sprintf("%d of %d volumes lack a replica, %s to copy", n, st.GetVolumes(), output.Bytes(int64(st.GetResyncBytesLeft()))), false, nil
		}
		return fmt.Sprintf("all %d volumes have all their replicas", st.GetVolumes()), true, nil
	})
}

func deviceNamed(devices []v1alpha1.BlockDevice, name string) *v1alpha1.BlockDevice {
	for i := range devices {
		if devices[i].Name == name {
			return &devices[i]
		}
	}
	return nil
}
