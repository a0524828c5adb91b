package command

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/internal/status"
	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/report"
)

func (e *Env) whyCommand() *cobra.Command {
	var timeout time.Duration
	var of string
	cmd := &cobra.Command{
		Use: "why [pvc/NAME | pod/NAME | volume/NAME | node/NAME | disk/NAME | cluster]", Short: "Explain the state of an object: what it stands on, and the most likely cause first",
		Long: "Explain the state of an object: what it stands on (pod, claim, volume, owner, replicas, disks, nodes), and the most likely cause first.\n\n" +
			"Pods and claims are looked for in --object-namespace; -n is the namespace of IOMesh. A disk is named by its BlockDevice, its id, or NODE/NAME.\n" +
			"Exit code 3 when something is wrong.",
		Example: "  kubectl iomesh why pod/db-0 --object-namespace shop\n  kubectl iomesh why node/worker-2\n  kubectl iomesh why",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fault.Usage("%s takes one object, got %d", cmd.CommandPath(), len(args))
			}
			return nil
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 30*time.Second, "how long to wait for answers")
	cmd.Flags().StringVar(&of, "object-namespace", "default", "namespace of the pod or claim")
	show := e.printer(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		f := report.WhyFacts{Object: status.Object{Kind: status.KindCluster}, Namespace: of}
		if len(args) == 1 {
			var err error
			if f.Object, err = status.ParseObject(args[0]); err != nil {
				return fault.Usage("%v", err)
			}
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		l, _, err := e.connect(ctx)
		if err != nil {
			return err
		}
		c, err := l.Cluster(ctx)
		if err != nil {
			return err
		}
		f.Facts = e.facts(ctx, l, c)
		if err := readWhy(ctx, l, &f); err != nil {
			return err
		}
		if !f.Known() {
			return fault.Failed(nil, "see: kubectl iomesh status -o wide, kubectl iomesh disk list", "there is no %s", f.Object)
		}
		w := report.BuildWhy(f)
		if err := show(w); err != nil {
			return err
		}
		if w.State != status.OK.Word() || len(w.Unread) > 0 {
			return fault.ErrProblems
		}
		return nil
	}
	return cmd
}

// readWhy reads what hangs on the object in Kubernetes and the volumes concerned. What cannot be read is noted; only the object itself must be there.
func readWhy(ctx context.Context, l *link.Link, f *report.WhyFacts) error {
	unread := func(what string, err error) {
		if err != nil {
			f.Unread = append(f.Unread, report.Unread{What: what, Why: err.Error()})
		}
	}
	core := l.Core.CoreV1()
	claims := map[string]bool{}
	switch f.Object.Kind {
	case status.KindPod:
		p, err := core.Pods(f.Namespace).Get(ctx, f.Object.Name, metav1.GetOptions{})
		if err != nil {
			return fault.API(err, "read pod %s in namespace %s", f.Object.Name, f.Namespace)
		}
		f.Pod = p
		for _, v := range p.Spec.Volumes {
			if v.PersistentVolumeClaim != nil {
				claims[v.PersistentVolumeClaim.ClaimName] = true
			}
		}
	case status.KindPVC:
		claims[f.Object.Name] = true
	case status.KindVolume:
		v, err := l.Volume(ctx, f.Object.Name)
		if err != nil && f.Data != nil {
			return err
		}
		if err == nil {
			f.Object.Name, f.Volumes = v.GetName(), append(f.Volumes, v)
		}
		return nil
	default:
		return nil
	}
	for name := range claims {
		c, err := core.PersistentVolumeClaims(f.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			if f.Object.Kind == status.KindPVC {
				return fault.API(err, "read claim %s in namespace %s", name, f.Namespace)
			}
			unread("claim "+name, err)
			continue
		}
		f.PVCs = append(f.PVCs, *c)
		if c.Spec.VolumeName == "" {
			continue
		}
		pv, err := core.PersistentVolumes().Get(ctx, c.Spec.VolumeName, metav1.GetOptions{})
		unread("PersistentVolume "+c.Spec.VolumeName, err)
		if err != nil {
			continue
		}
		f.PVs = append(f.PVs, *pv)
		if pv.Spec.CSI != nil && pv.Spec.CSI.Driver == report.DriverName && f.Data != nil {
			v, err := l.Volume(ctx, pv.Spec.CSI.VolumeHandle)
			unread("volume "+pv.Spec.CSI.VolumeHandle, err)
			if err == nil {
				f.Volumes = append(f.Volumes, v)
			}
		}
	}
	if list, err := l.Core.StorageV1().VolumeAttachments().List(ctx, metav1.ListOptions{}); err != nil {
		unread("attachments", err)
	} else {
		f.Attachments = list.Items
	}
	if list, err := core.Events(f.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=" + corev1.EventTypeWarning}); err != nil {
		unread("events", err)
	} else {
		f.Events = list.Items
	}
	return nil
}
