package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/release"
	"github.com/iomesh/iomesh/manifests"
)

// Here the plugin is killed after each change that it, or Helm within it, makes on a server: commands that install, change and remove the release.

// command runs a line as a process of its own, whose way to the server is m. It returns when the process ends or is killed; a killed one may still run, and
// reaches nobody.
func (m *mortalClient) command(pause func(context.Context) error, line ...string) (string, int) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	type end struct {
		text string
		code int
	}
	ended := make(chan end, 1)
	line = append(append([]string{}, line...), "--kubeconfig", m.kubeconfig, "--cache-dir", m.kubeconfig+"-cache")
	go func() {
		var out bytes.Buffer
		e := &Env{Streams: genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &out}, Flags: genericclioptions.NewConfigFlags(true), Now: time.Now, holdPause: pause}
		e.Open = func() (*link.Link, error) { return link.Open(e.Flags) }
		root := e.root()
		root.SetArgs(line)
		code := Execute(ctx, root, &out)
		ended <- end{out.String(), code}
	}()
	select {
	case e := <-ended:
		return e.text, e.code
	case <-m.dead:
		return "", -1
	}
}

// quickly looks at a hold without pauses: a killed run does not renew its hold, however long one waits.
func quickly(context.Context) error { return nil }

// state is all that there is, in one text: the objects, without what a server adds, and the last revision of the release in the place of Helm's records.
func (k *kubeAPI) state(t *testing.T) string {
	t.Helper()
	k.mu.Lock()
	all := map[string]any{}
	for key, o := range k.objects {
		if o = clone(o); o["type"] == "helm.sh/release.v1" {
			continue
		}
		for _, of := range []string{"uid", "resourceVersion", "creationTimestamp"} {
			delete(o["metadata"].(object), of)
		}
		all[key] = o
	}
	k.mu.Unlock()
	if rel := k.release(t); rel != nil {
		all["release"] = rel
	}
	b, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// release is what matters of the release, nil when there is none.
func (k *kubeAPI) release(t *testing.T) map[string]any {
	t.Helper()
	flags := genericclioptions.NewConfigFlags(true)
	flags.KubeConfig = &k.client(t, 0).kubeconfig
	chart, err := release.Load(manifests.Chart())
	if err != nil {
		t.Fatal(err)
	}
	h, err := release.New(flagsIn(flags, "iomesh-system"), "iomesh-system", "iomesh", chart, slog.DiscardHandler)
	if err != nil {
		t.Fatal(err)
	}
	rel, err := h.Current()
	if err != nil {
		t.Fatal(err)
	}
	if rel == nil {
		return nil
	}
	return map[string]any{"status": rel.Info.Status, "values": rel.Config, "chart": rel.Chart.Metadata, "manifest": rel.Manifest}
}

// must runs a command that is expected to succeed.
func (k *kubeAPI) must(t *testing.T, line ...string) {
	t.Helper()
	if out, code := k.client(t, 0).command(quickly, line...); code != 0 {
		t.Fatalf("%s: exit code %d:\n%s", line, code, out)
	}
}

// Command lines of the tests.
var (
	lineInstall   = []string{"install", "--image", "iomesh/iomesh:v1", "--set", "iomesh.meta.replicaCount=3"}
	lineUpgrade   = []string{"upgrade", "--image", "iomesh/iomesh:v2", "--set", "operator.replicaCount=1"}
	lineRollback  = []string{"upgrade", "--rollback", "--confirm", "iomesh"}
	lineUninstall = []string{"uninstall", "--confirm", "iomesh"}
)

const lock = "leases.coordination.k8s.io|iomesh-system|kubectl-iomesh"

// after is a server on which commands were run, and whose operator has a Lease.
func after(t *testing.T, lines ...[]string) *kubeAPI {
	t.Helper()
	k := newKubeAPI()
	for _, line := range lines {
		k.must(t, line...)
	}
	if len(lines) > 0 {
		lease := object{"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": object{"name": "iomesh-operator", "namespace": "iomesh-system"}}
		k.objects["leases.coordination.k8s.io|iomesh-system|iomesh-operator"] = lease
	}
	return k
}

func TestAReleaseWhoseChangeIsKilledIsFinishedByTheSameCommand(t *testing.T) {
	for _, c := range []struct {
		name   string
		before [][]string
		line   []string
		least  int    // changes
		image  string // of the operator at the end, "" when there is none
	}{
		{"install", nil, lineInstall, 20, "iomesh/iomesh:v1"},
		{"upgrade", [][]string{lineInstall}, lineUpgrade, 15, "iomesh/iomesh:v2"},
		{"rollback", [][]string{lineInstall, lineUpgrade}, lineRollback, 15, "iomesh/iomesh:v1"},
		{"uninstall", [][]string{lineInstall, lineUpgrade}, lineUninstall, 15, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // each point is a run of Helm: all of them take a minute of one core
			origin := after(t, c.before...)
			whole := origin.copy()
			m := whole.client(t, 0)
			if out, code := m.command(quickly, c.line...); code != 0 {
				t.Fatalf("exit code %d:\n%s", code, out)
			}
			want := whole.state(t)
			if m.changes < c.least {
				t.Fatalf("%d changes in all, want at least %d", m.changes, c.least)
			}
			if got := whole.operatorImage(); got != c.image {
				t.Errorf("the operator's image is %q, want %q", got, c.image)
			}
			for n := 1; n <= m.changes; n++ {
				k := origin.copy()
				dying := k.client(t, n)
				if _, code := dying.command(quickly, c.line...); !dying.killed() {
					t.Fatalf("killed after change %d: it made only %d and ended with %d", n, dying.changes, code)
				}
				if out, code := k.client(t, 0).command(quickly, c.line...); code != 0 {
					t.Errorf("killed after change %d and given again: exit code %d:\n%s", n, code, out)
				} else if got := k.state(t); got != want {
					t.Errorf("killed after change %d and given again:\n%s", n, difference(got, want))
				}
			}
		})
	}
}

func (k *kubeAPI) operatorImage() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	containers, _ := at(k.objects["deployments.apps|iomesh-system|iomesh-controller"], "spec", "template", "spec", "containers").([]any)
	for _, c := range containers {
		if c.(object)["name"] == "operator" {
			return fmt.Sprint(c.(object)["image"])
		}
	}
	return ""
}

// difference is the lines that only one of two texts has.
func difference(got, want string) string {
	count := map[string]int{}
	for line := range strings.Lines(want) {
		count[line]--
	}
	for line := range strings.Lines(got) {
		count[line]++
	}
	var b strings.Builder
	for line, n := range count {
		if n != 0 && b.Len() < 4000 {
			fmt.Fprintf(&b, "%+d %.300s\n", n, line)
		}
	}
	return b.String()
}

func TestARunDoesNotTrampleAnotherOne(t *testing.T) {
	k := after(t, lineInstall)
	first := k.client(t, 0)
	stopped, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	first.before = func(r *http.Request) {
		if strings.Contains(r.URL.Path, "/deployments/") {
			once.Do(func() { close(stopped) })
			<-goOn
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = first.command(quickly, lineUpgrade...)
	}()
	<-stopped
	renewed := func(context.Context) error { // as the first run does within such a pause
		k.mu.Lock()
		defer k.mu.Unlock()
		k.version++
		k.objects[lock]["metadata"].(object)["resourceVersion"] = fmt.Sprint(k.version)
		return nil
	}
	for _, line := range [][]string{lineUpgrade, lineRollback, lineUninstall} {
		if out, code := k.client(t, 0).command(renewed, line...); code != 1 || !strings.Contains(out, "another run of kubectl iomesh") {
			t.Errorf("%s: exit code %d: %s", line, code, out)
		}
	}
	close(goOn)
	<-done // how it ended is of no matter: it may have noticed that the test wrote to its lock
	k.mu.Lock()
	delete(k.objects, lock)
	k.mu.Unlock()
	k.must(t, lineUpgrade...)
	if got := k.operatorImage(); got != "iomesh/iomesh:v2" {
		t.Errorf("the operator's image is %q", got)
	}
}

// TestARunThatLosesItsLockStops: another one may have taken it over.
func TestARunThatLosesItsLockStops(t *testing.T) {
	k := after(t, lineInstall)
	m := k.client(t, 0)
	stopped := make(chan struct{})
	m.before = func(r *http.Request) {
		if strings.Contains(r.URL.Path, "/deployments/") {
			k.mu.Lock()
			delete(k.objects, lock)
			k.mu.Unlock()
			<-stopped
		}
	}
	out, code := m.command(quickly, lineUpgrade...)
	close(stopped)
	if code != 1 || !strings.Contains(out, "could not be renewed") {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// TestAPendingRevisionOfHelmIsLeftAlone: whether another program still works on it cannot be known.
func TestAPendingRevisionOfHelmIsLeftAlone(t *testing.T) {
	origin := after(t, lineInstall)
	k := origin
	for n := 1; ; n++ { // a revision left pending, made to look like helm's by the label that helm would have handed on
		k = origin.copy()
		m := k.client(t, n)
		_, _ = m.command(quickly, lineUpgrade...)
		if !m.killed() {
			t.Fatal("there was no moment at which a revision was pending")
		}
		if rel := k.release(t); fmt.Sprint(rel["status"]) == "pending-upgrade" {
			break
		}
	}
	k.mu.Lock()
	first, second := k.objects["secrets|iomesh-system|sh.helm.release.v1.iomesh.v1"], k.objects["secrets|iomesh-system|sh.helm.release.v1.iomesh.v2"]
	second["metadata"].(object)["labels"].(object)["iomesh.com/run"] = labelsOf(first)["iomesh.com/run"]
	delete(k.objects, lock)
	k.mu.Unlock()
	before := k.state(t)
	for _, line := range [][]string{lineUpgrade, lineRollback} {
		out, code := k.client(t, 0).command(quickly, line...)
		if code != 1 || !strings.Contains(out, "revision 2 is pending-upgrade") || !strings.Contains(out, "helm rollback -n iomesh-system iomesh") {
			t.Errorf("%s: exit code %d: %s", line, code, out)
		}
		if got := k.state(t); got != before {
			t.Errorf("%s changed\n%s", line, difference(got, before))
		}
	}
	k.must(t, lineUninstall...)
}

func TestRollbackGoesToTheVersionBeforeHoweverOftenItIsGiven(t *testing.T) {
	k := after(t, lineInstall, lineUpgrade, lineRollback, lineRollback)
	if got := k.operatorImage(); got != "iomesh/iomesh:v1" {
		t.Errorf("given twice: %v", got)
	}
	k.must(t, "upgrade", "--set", "operator.replicaCount=2")
	k.must(t, lineRollback...)
	if got := k.operatorImage(); got != "iomesh/iomesh:v1" {
		t.Errorf("after a change of values: %v", got)
	}
	k.must(t, "upgrade", "--image", "iomesh/iomesh:v3")
	k.must(t, lineRollback...)
	if got := k.operatorImage(); got != "iomesh/iomesh:v1" {
		t.Errorf("after an upgrade to v3: %v", got)
	}
}

func TestUninstallWithoutTheKinds(t *testing.T) {
	k := after(t, lineInstall)
	for key, o := range k.objects {
		if o["kind"] == "CustomResourceDefinition" || o["kind"] == "IOMeshCluster" || o["kind"] == "VolumeSnapshotClass" {
			delete(k.objects, key)
		}
	}
	k.must(t, lineUninstall...)
	for key := range k.objects {
		if key != "namespaces||iomesh-system" {
			t.Errorf("%s is left", key)
		}
	}
}

func TestASecondInstallation(t *testing.T) {
	k := after(t, lineInstall)
	if out, code := k.client(t, 0).command(quickly, lineInstall...); code != 0 || !strings.Contains(out, "nothing is changed") {
		t.Errorf("the same: exit code %d: %s", code, out)
	}
	if out, code := k.client(t, 0).command(quickly, "install", "--image", "iomesh/iomesh:v2"); code != 1 || !strings.Contains(out, "installed already") {
		t.Errorf("another: exit code %d: %s", code, out)
	}
}
