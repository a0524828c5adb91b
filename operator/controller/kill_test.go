package controller

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/apply"
)

// Here the operator is killed after each of its writes: a life makes one change and then nothing more, whatever the pass was about to do, the status
// included. A new one, which remembers nothing, must bring every task to its end.

var errKilled = errors.New("the operator was killed")

// life is one process of the operator.
type life struct {
	left int // changes it may still make
	dead bool
}

// change counts one change; it returns an error once the process is dead.
func (l *life) change(do func() error) error {
	if l == nil {
		return do()
	}
	if l.dead {
		return errKilled
	}
	err := do()
	if l.left--; l.left <= 0 {
		l.dead = true
	}
	return err
}

// mortal makes the operator die after every so many changes from now on.
func (w *world) mortal(changes int) {
	w.changes = changes
	w.restart()
}

// restart starts a new process.
func (w *world) restart() {
	l := &life{left: w.changes}
	w.storage.life = l
	w.deaths++
	c := interceptor.NewClient(w.c.(client.WithWatch), interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.CreateOption) error {
			return l.change(func() error { return c.Create(ctx, obj, opts...) })
		},
		Delete: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.DeleteOption) error {
			return l.change(func() error { return c.Delete(ctx, obj, opts...) })
		},
		Update: func(ctx context.Context, c client.WithWatch, obj client.Object, opts ...client.UpdateOption) error {
			return l.change(func() error { return c.Update(ctx, obj, opts...) })
		},
		Patch: func(ctx context.Context, c client.WithWatch, obj client.Object, p client.Patch, opts ...client.PatchOption) error {
			return l.change(func() error { return c.Patch(ctx, obj, p, opts...) })
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			return l.change(func() error { return c.SubResource(sub).Patch(ctx, obj, p, opts...) })
		},
		Apply: func(ctx context.Context, c client.WithWatch, obj runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			if l.dead {
				return errKilled
			}
			// An apply that changes nothing is no change: each life applies everything anew.
			u, err := configuration(obj)
			if err != nil {
				return err
			}
			before := w.version(ctx, u)
			if err := c.Apply(ctx, obj, opts...); err != nil {
				return err
			}
			if w.version(ctx, u) != before {
				return l.change(func() error { return nil })
			}
			return nil
		},
	})
	w.r = New(Options{
		Client: c, Applier: apply.New(c, v1alpha1.FieldOwnerOperator), Connect: w.storage, Events: w, Log: slog.New(slog.DiscardHandler),
		Image: "iomesh/iomesh:v1", Poll: time.Second, Now: w.r.Now, NewUID: w.r.NewUID,
	})
}

// version is an object's content, without what the fake server counts also where nothing changed.
func (w *world) version(ctx context.Context, obj client.Object) string {
	live, err := w.c.Scheme().New(obj.GetObjectKind().GroupVersionKind())
	if err != nil {
		w.t.Fatal(err)
	}
	o := live.(client.Object)
	if w.c.Get(ctx, client.ObjectKeyFromObject(obj), o) != nil {
		return ""
	}
	o.SetResourceVersion("")
	o.SetManagedFields(nil)
	o.SetGeneration(0)
	b, err := json.Marshal(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// converge is until with as many lives as it takes.
func (w *world) converge(what string, holds func() bool) {
	w.t.Helper()
	for range 120 {
		if holds() {
			return
		}
		w.pass("iomesh")
	}
	w.until(what, holds)
}

func TestEveryTaskIsFinishedByAnOperatorThatIsKilledAllTheTime(t *testing.T) {
	exclude := func(w *world, name string) {
		c := w.get("iomesh")
		sel := c.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal]
		sel.Exclude = append(sel.Exclude, name)
		c.Spec.Chunk.DeviceMap[v1alpha1.DataStoreWithJournal] = sel
		w.must(w.c.Update(w.t.Context(), c))
	}
	empty := func(w *world) { // what the metadata members do with a disk that is being drained
		for _, d := range w.storage.disks {
			if d.State == diskDraining {
				d.State = diskDrained
			}
		}
	}
	for _, task := range []struct {
		name  string
		begin func(w *world)
		done  func(w *world) bool
		proof func(w *world) string
	}{
		{"a disk is replaced", func(w *world) {
			d := &v1alpha1.BlockDevice{ObjectMeta: metav1.ObjectMeta{Name: "bd-new", Namespace: ns, Labels: map[string]string{v1alpha1.LabelNode: "n3"}}}
			d.Spec = v1alpha1.BlockDeviceSpec{Node: "n3", Path: "/dev/sdc", Identity: v1alpha1.Identity{Serial: "new", SizeBytes: 8 << 30}}
			w.must(w.c.Create(w.t.Context(), d))
			exclude(w, "bd-n3")
		}, func(w *world) bool {
			empty(w)
			return w.device("bd-n3").Spec.Claim == nil && w.storage.disks["disk-bd-n3"] == nil && w.device("bd-new").Spec.Claim != nil && w.storage.disks["disk-bd-new"].GetState() == diskActive
		}, func(w *world) string {
			if !w.exists(&corev1.Pod{}, "iomesh-chunk-n3") {
				return "the chunk of n3 is gone"
			}
			return ""
		}},
		{"everything is upgraded", func(w *world) {
			c := w.get("iomesh")
			c.Spec.Image = "iomesh/iomesh:v2"
			w.must(w.c.Update(w.t.Context(), c))
		}, func(w *world) bool {
			s := w.get("iomesh").Status
			for _, image := range s.RunningImages.Chunk {
				if image != "iomesh/iomesh:v2" {
					return false
				}
			}
			return len(s.RunningImages.Chunk) == 3 && s.UpdatingNode == "" && s.TaskInProcess == ""
		}, func(w *world) string {
			for node, mode := range w.storage.modes {
				if mode != "active" {
					return "node " + node + " was left in " + mode
				}
			}
			if w.missingMost > 1 {
				return "two chunks were away at once"
			}
			return ""
		}},
		{"a node is removed", func(w *world) {
			w.addNode("n4", "10.0.0.4")
			w.leave("n1")
			exclude(w, "bd-n1")
		}, func(w *world) bool {
			empty(w)
			return w.memberNode(0) == "n4" && w.storage.nodes["n1"] == nil && w.storage.disks["disk-bd-n1"] == nil && !w.exists(&corev1.Pod{}, "iomesh-chunk-n1") &&
				w.metaSet().Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && w.get("iomesh").Status.TaskInProcess == ""
		}, func(w *world) string {
			if w.memberNode(1) != "n2" || w.memberNode(2) != "n3" {
				return "other members moved: " + w.memberNode(1) + " " + w.memberNode(2)
			}
			return ""
		}},
		{"it is uninstalled", func(w *world) {
			w.storage.volumes = nil
			w.must(w.c.Delete(w.t.Context(), w.get("iomesh")))
		}, func(w *world) bool { return !w.exists(&v1alpha1.IOMeshCluster{}, "iomesh") }, func(w *world) string {
			var pvs corev1.PersistentVolumeList
			var pods corev1.PodList
			var bds v1alpha1.BlockDeviceList
			w.must(errors.Join(w.c.List(w.t.Context(), &pvs), w.c.List(w.t.Context(), &pods), w.c.List(w.t.Context(), &bds)))
			var left []string
			for _, o := range pvs.Items {
				left = append(left, "volume "+o.Name)
			}
			for _, o := range pods.Items {
				left = append(left, "pod "+o.Name)
			}
			for _, o := range bds.Items {
				left = append(left, "device "+o.Name)
			}
			return strings.Join(left, ", ")
		}},
	} {
		t.Run(task.name, func(t *testing.T) {
			w := movable(t)
			w.until("settled", func() bool {
				s := w.get("iomesh").Status
				return s.Columns.Disks == "3/3" && s.TaskInProcess == ""
			})
			w.storage.volumes = []*storagedv1.Volume{{Name: "pvc-1"}}
			w.storage.joined["10.0.0.4:10100"] = true
			w.missingMost, w.deaths = 0, 0
			task.begin(w)
			w.mortal(1)
			w.converge(task.name, func() bool { return task.done(w) })
			if why := task.proof(w); why != "" {
				t.Error(why)
			}
			if w.deaths < 3 {
				t.Errorf("only %d lives", w.deaths)
			}
			t.Logf("%d lives", w.deaths)
		})
	}
}
