package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"

	"github.com/iomesh/iomesh/kubectl-iomesh/link"
)

// Here the plugin is killed after each of its changes: the change is made, and nothing after it, reads included. The same command, given again, must
// bring the cluster to where an uninterrupted one brings it.

var errKilled = errors.New("the plugin was killed")

// mortal counts the changes of one command, and kills it after the last that it may make.
type mortal struct {
	left    int // 0: unlimited
	changes int
	dead    bool
}

func (m *mortal) react(a k8stesting.Action) (bool, runtime.Object, error) {
	if m.dead {
		return true, nil, errKilled
	}
	switch a.GetVerb() {
	case "create", "update", "patch", "delete":
		if m.changes++; m.changes == m.left {
			m.dead = true
		}
	}
	return false, nil, nil
}

// command runs a line against the world as it is.
func (w *world) command(line []string) (string, int) {
	var out bytes.Buffer
	e := &Env{Streams: genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &out}, Flags: genericclioptions.NewConfigFlags(true)}
	e.Now = func() time.Time { return now }
	e.Open = func() (*link.Link, error) { return w.l, nil }
	root := e.root()
	root.SetArgs(line)
	code := Execute(context.Background(), root, &out)
	return out.String(), code
}

// wishes is all that the plugin may have changed, in one text.
func (w *world) wishes(t *testing.T) string {
	t.Helper()
	c, err := w.l.Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	devices, err := w.l.ListDevices(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	nodes, err := w.l.Core.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	all := []any{c.Spec, c.Annotations, c.Labels}
	for _, d := range devices {
		all = append(all, d.Name, d.Labels, d.Annotations, d.Spec)
	}
	for _, n := range nodes.Items {
		all = append(all, n.Name, n.Labels, n.Annotations, n.Spec)
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestACommandThatIsKilledIsFinishedByGivingItAgain(t *testing.T) {
	four := func() *world {
		w := healthy()
		w.nodes = append(w.nodes, node("n4", "True"))
		w.devices = append(w.devices, disk("bd-f", "n4", "/dev/sdb", claimed), disk("bd-g", "n4", "/dev/sdc", claimed))
		w.ctl["status"] = strings.Replace(healthyStatus, `"disks":[`, `"disks":[{"id":"disk-bd-f","name":"bd-f","node":"n4","state":"Active"},{"id":"disk-bd-g","name":"bd-g","node":"n4","state":"Active"},`, 1)
		w.ctl["status"] = strings.Replace(w.ctl["status"], `"nodes":[`, `"nodes":[{"name":"n4","state":"Online","mode":"active"},`, 1)
		return w
	}
	for _, c := range []struct {
		name    string
		world   func() *world
		line    []string
		changes int // at least
	}{
		{"disk replace", healthy, []string{"disk", "replace", "bd-c", "--confirm", "iomesh", "--wait=false"}, 2},
		{"disk release", healthy, []string{"disk", "release", "bd-b", "--confirm", "iomesh", "--wait=false"}, 1},
		{"disk map", func() *world {
			w := healthy()
			w.devices = append(w.devices, disk("bd-h", "n2", "/dev/sdc"))
			return w
		}, []string{"disk", "map", "--device", "bd-d", "--device", "bd-h", "--confirm", "iomesh", "--wait=false"}, 2},
		{"node drain", four, []string{"node", "drain", "n4", "--confirm", "n4", "--wait=false"}, 1},
		{"node remove", four, []string{"node", "remove", "n4", "--confirm", "n4", "--wait=false"}, 1},
		{"node remove, a member moves", four, []string{"node", "remove", "n1", "--confirm", "n1", "--wait=false"}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			begin := func(left int) (*world, *mortal) {
				w, m := c.world(), &mortal{left: left}
				w.link(t)
				w.dyn.PrependReactor("*", "*", m.react)
				w.l.Core.(*fake.Clientset).PrependReactor("*", "*", m.react)
				return w, m
			}
			w, whole := begin(0)
			if out, code := w.command(c.line); code != 0 {
				t.Fatalf("exit code %d:\n%s", code, out)
			}
			want := w.wishes(t)
			if whole.changes < c.changes {
				t.Fatalf("%d changes in all, want at least %d", whole.changes, c.changes)
			}
			for n := 1; n <= whole.changes; n++ {
				w, m := begin(n)
				w.command(c.line)
				if !m.dead {
					t.Fatalf("killed after change %d: it made only %d", n, m.changes)
				}
				m.dead, m.left = false, 0
				if out, code := w.command(c.line); code != 0 {
					t.Errorf("killed after change %d and given again: exit code %d:\n%s", n, code, out)
				}
				if got := w.wishes(t); got != want {
					t.Errorf("killed after change %d and given again:\n%s\nwant\n%s", n, got, want)
				}
			}
		})
	}
}
