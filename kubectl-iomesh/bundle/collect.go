package bundle

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// driver is the CSI driver whose objects are taken along.
const driver = "com.iomesh.csi-driver"

// Source is what is collected from.
type Source struct {
	Link    *link.Link
	Cluster *v1alpha1.IOMeshCluster // nil: not installed, or not readable
	Client  string                  // version of the plugin
	Now     time.Time
	// Reports are the plugin's own, rendered: name to text.
	Reports map[string][]byte
	// Say tells of progress.
	Say func(format string, args ...any)
}

// Take collects and writes the archive. It fails only when the archive cannot be written; what could not be read is in the index.
func Take(ctx context.Context, s Source, limits Limits, w io.Writer) (Index, error) {
	ctx, cancel := context.WithTimeout(ctx, limits.Time)
	defer cancel()
	c := &collection{limits: limits, index: Index{Meta: output.Of("SupportBundle"), Namespace: s.Link.Namespace, Client: s.Client, Taken: s.Now.UTC(), Files: []Entry{}, Missing: []Missing{}}}
	if s.Cluster != nil {
		c.index.Cluster = s.Cluster.Name
	}
	for name, text := range s.Reports {
		c.add("reports/"+name, cleanText(text))
	}
	c.objects(ctx, s)
	c.answers(ctx, s)
	c.logs(ctx, s)
	if ctx.Err() != nil {
		c.miss("what came after", fmt.Sprintf("the collection took longer than %s", limits.Time))
	}
	return c.index, c.write(w)
}

// call runs one question within its time and notes its failure.
func (c *collection) call(ctx context.Context, what string, f func(context.Context) error) {
	if ctx.Err() != nil {
		c.miss(what, "no time was left")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, c.limits.CallTime)
	defer cancel()
	if err := f(ctx); err != nil {
		c.miss(what, err.Error())
	}
}

func (c *collection) yaml(path string, v any) error {
	data, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	c.add(path, data)
	return nil
}

// objects are the kinds allowed. No Secret, no ConfigMap.
func (c *collection) objects(ctx context.Context, s Source) {
	core, all, ns := s.Link.Core, metav1.ListOptions{}, s.Link.Namespace
	c.call(ctx, "IOMeshCluster", func(ctx context.Context) error {
		list, err := s.Link.Clusters().List(ctx, all)
		if err != nil {
			return err
		}
		for i := range list.Items {
			var o v1alpha1.IOMeshCluster
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &o); err != nil {
				return err
			}
			cleanMeta(&o.ObjectMeta)
			if err := c.yaml("objects/iomeshcluster-"+o.Name+".yaml", o); err != nil {
				return err
			}
		}
		return nil
	})
	c.call(ctx, "BlockDevices", func(ctx context.Context) error {
		list, err := s.Link.ListDevices(ctx)
		for i := range list {
			cleanMeta(&list[i].ObjectMeta)
		}
		if err != nil {
			return err
		}
		return c.yaml("objects/blockdevices.yaml", list)
	})
	c.call(ctx, "pods", func(ctx context.Context) error {
		list, err := s.Link.Pods(ctx, "")
		for i := range list {
			cleanPod(&list[i])
		}
		if err != nil {
			return err
		}
		return c.yaml("objects/pods.yaml", list)
	})
	c.call(ctx, "nodes", func(ctx context.Context) error {
		list, err := core.CoreV1().Nodes().List(ctx, all)
		if err != nil {
			return err
		}
		for i := range list.Items {
			cleanMeta(&list.Items[i].ObjectMeta)
			list.Items[i].Status.Images = nil
		}
		return c.yaml("objects/nodes.yaml", list.Items)
	})
	c.call(ctx, "PersistentVolumes", func(ctx context.Context) error {
		list, err := core.CoreV1().PersistentVolumes().List(ctx, all)
		if err != nil {
			return err
		}
		var ours []corev1.PersistentVolume
		for _, pv := range list.Items {
			if pv.Spec.CSI != nil && pv.Spec.CSI.Driver == driver {
				cleanMeta(&pv.ObjectMeta)
				ours = append(ours, pv)
			}
		}
		return c.yaml("objects/persistentvolumes.yaml", ours)
	})
	c.call(ctx, "VolumeAttachments", func(ctx context.Context) error {
		list, err := core.StorageV1().VolumeAttachments().List(ctx, all)
		if err != nil {
			return err
		}
		for i := range list.Items {
			cleanMeta(&list.Items[i].ObjectMeta)
		}
		return c.yaml("objects/volumeattachments.yaml", list.Items)
	})
	c.call(ctx, "StorageClasses", func(ctx context.Context) error {
		list, err := core.StorageV1().StorageClasses().List(ctx, all)
		if err != nil {
			return err
		}
		for i := range list.Items {
			cleanMeta(&list.Items[i].ObjectMeta)
		}
		return c.yaml("objects/storageclasses.yaml", list.Items)
	})
	c.call(ctx, "CSINodes", func(ctx context.Context) error {
		list, err := core.StorageV1().CSINodes().List(ctx, all)
		if err != nil {
			return err
		}
		for i := range list.Items {
			cleanMeta(&list.Items[i].ObjectMeta)
		}
		return c.yaml("objects/csinodes.yaml", list.Items)
	})
	c.call(ctx, "workloads", func(ctx context.Context) error {
		sets, err := core.AppsV1().DaemonSets(ns).List(ctx, all)
		if err != nil {
			return err
		}
		var out []map[string]any
		for _, d := range sets.Items {
			out = append(out, map[string]any{"kind": "DaemonSet", "name": d.Name, "status": d.Status})
		}
		members, err := core.AppsV1().StatefulSets(ns).List(ctx, all)
		if err != nil {
			return err
		}
		for _, d := range members.Items {
			out = append(out, map[string]any{"kind": "StatefulSet", "name": d.Name, "status": d.Status})
		}
		return c.yaml("objects/workloads.yaml", out)
	})
	c.call(ctx, "events", func(ctx context.Context) error {
		list, err := core.CoreV1().Events(ns).List(ctx, metav1.ListOptions{Limit: 2000})
		if err != nil {
			return err
		}
		var b strings.Builder
		for _, e := range list.Items {
			fmt.Fprintf(&b, "%s %s %s/%s %s ×%d: %s\n", e.LastTimestamp.UTC().Format(time.RFC3339), e.Type, e.InvolvedObject.Kind, e.InvolvedObject.Name, e.Reason, max(e.Count, 1), e.Message)
		}
		c.add("events.txt", cleanText([]byte(b.String())))
		return nil
	})
}

// questions to the block service, by file name.
var questions = []struct {
	name string
	args []string
}{
	{"status", []string{"status"}}, {"volumes", []string{"volume", "list"}}, {"nodes", []string{"node", "list"}}, {"disks", []string{"disk", "list"}}, {"tasks", []string{"task", "list"}},
	{"why", []string{"why", "cluster"}},
}

func (c *collection) answers(ctx context.Context, s Source) {
	for _, q := range questions {
		s.Say("asking the block service: %s", strings.Join(q.args, " "))
		c.call(ctx, "storaged ctl "+strings.Join(q.args, " "), func(ctx context.Context) error {
			out, err := s.Link.Ctl(ctx, q.args...)
			if err != nil {
				return err
			}
			if !json.Valid(out) {
				return fmt.Errorf("the answer is no JSON")
			}
			c.add("storage/"+q.name+".json", cleanText(out))
			return nil
		})
	}
}

// logs of every container of ours, of this run and of the one before.
func (c *collection) logs(ctx context.Context, s Source) {
	pods, err := s.Link.Pods(ctx, "")
	if err != nil {
		return // noted with the objects
	}
	for i := range pods {
		p := &pods[i]
		s.Say("log of pod %s", p.Name)
		for _, st := range append(append([]corev1.ContainerStatus{}, p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
			for _, previous := range []bool{false, true} {
				if previous && st.RestartCount == 0 {
					continue
				}
				name := "logs/" + p.Name + "/" + st.Name
				if previous {
					name += ".previous"
				}
				c.call(ctx, name, func(ctx context.Context) error {
					limit := int64(c.limits.FileBytes)
					r, err := s.Link.Core.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: st.Name, Previous: previous, TailLines: &c.limits.LogLines,
						LimitBytes: &limit, Timestamps: true}).Stream(ctx)
					if err != nil {
						return err
					}
					defer r.Close()
					data, err := io.ReadAll(io.LimitReader(r, limit))
					if len(data) > 0 {
						c.add(name+".log", cleanText(data))
					}
					return err
				})
			}
		}
	}
}
