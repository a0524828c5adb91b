package command

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	fakediscovery "k8s.io/client-go/discovery/fake"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/util/exec"

	agentv1 "github.com/iomesh/iomesh/api/agent/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
)

var update = flag.Bool("update", false, "rewrite the goldens")

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// world is a cluster that the plugin is pointed at.
type world struct {
	cluster *v1alpha1.IOMeshCluster
	devices []v1alpha1.BlockDevice
	nodes   []corev1.Node
	pods    []corev1.Pod
	pvs     []corev1.PersistentVolume
	ctl     map[string]string // arguments to JSON
	ctlErr  error
	agents  map[string]*agentv1.CheckResponse // by node
	hosts   map[string]*fakeHost              // by node, for preparation

	l   *link.Link
	dyn *dynamicfake.FakeDynamicClient
}

func conditions(ready metav1.ConditionStatus, reason, message string) []metav1.Condition {
	return []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: ready, Reason: reason, Message: message},
		{Type: v1alpha1.ConditionProgressing, Status: metav1.ConditionFalse, Reason: "Idle", Message: "nothing to do"}}
}

func node(name string, ready corev1.ConditionStatus) corev1.Node {
	return corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
}

func pod(name, component, node string, containers ...string) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "iomesh-system", Labels: map[string]string{"app.kubernetes.io/part-of": "iomesh", "app.kubernetes.io/component": component}},
		Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.9"}}
	for _, c := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: c, Image: "iomesh/iomesh:v1"})
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{Name: c, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
	}
	return p
}

func disk(name, node, path string, edit ...func(*v1alpha1.BlockDevice)) v1alpha1.BlockDevice {
	seen := metav1.NewTime(now.Add(-time.Minute))
	d := v1alpha1.BlockDevice{
		TypeMeta:   metav1.TypeMeta{APIVersion: "iomesh.com/v1alpha1", Kind: "BlockDevice"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "iomesh-system", Labels: map[string]string{"iomesh.com/node": node, "iomesh.com/bd-driverType": "SSD"}},
		Spec: v1alpha1.BlockDeviceSpec{Node: node, Path: path, Identity: v1alpha1.Identity{Serial: "S-" + name, Model: "SSDPE2KX", Vendor: "INTEL", SizeBytes: 1 << 40,
			DeviceType: v1alpha1.TypeDisk, DriveType: v1alpha1.DriveSSD}},
		Status: v1alpha1.BlockDeviceStatus{State: v1alpha1.DeviceActive, ClaimState: v1alpha1.Unclaimed, Eligible: true, Health: v1alpha1.DeviceHealthUnknown, LastSeen: &seen},
	}
	for _, e := range edit {
		e(&d)
	}
	return d
}

func claimed(d *v1alpha1.BlockDevice) {
	c := &v1alpha1.Claim{UID: "c", ClusterRef: v1alpha1.ClusterRef{Name: "iomesh", UID: "uid-1"}, MountType: v1alpha1.DataStoreWithJournal}
	d.Spec.Claim, d.Status.Claim, d.Status.ClaimState, d.Status.Eligible = c, c, v1alpha1.Claimed, false
	d.Status.DiskID, d.Status.Health, d.Status.Usage = "disk-"+d.Name, v1alpha1.DeviceHealthy, &v1alpha1.DeviceUsage{State: "Active", UsedBytes: 5 << 30, SizeBytes: 1 << 40}
	d.Status.Reasons = []v1alpha1.Reason{{Code: "Claimed", Message: "belongs to cluster iomesh as dataStoreWithJournal"}}
	d.Labels["iomesh.com/disk-map"] = "dataStoreWithJournal"
}

func unfit(messages ...string) func(*v1alpha1.BlockDevice) {
	return func(d *v1alpha1.BlockDevice) {
		d.Status.Eligible = false
		for _, m := range messages {
			d.Status.Reasons = append(d.Status.Reasons, v1alpha1.Reason{Code: "X", Message: m})
		}
	}
}

const healthyStatus = `{"clusterID":"99999999-2222-3333-4444-555555555555","health":"Healthy","leader":"iomesh-meta-0","totalBytes":3298534883328,"usedBytes":16106127360,
"provisionedBytes":21474836480,"volumes":2,"asOf":"2026-11-21T11:59:59Z",
"meta":[{"name":"iomesh-meta-0","healthy":true,"leader":true},{"name":"iomesh-meta-1","healthy":true},{"name":"iomesh-meta-2","healthy":true}],
"nodes":[{"name":"n1","state":"Online","mode":"active","version":"v1","data":"10.0.0.1:10201","ownedVolumes":1,"sessions":1},{"name":"n2","state":"Online","mode":"active","version":"v1","data":"10.0.0.2:10201","ownedVolumes":1,"sessions":1},{"name":"n3","state":"Online","mode":"active","version":"v1","data":"10.0.0.3:10201"}],
"disks":[{"id":"disk-a","name":"a","node":"n1","state":"Active"},{"id":"disk-b","name":"b","node":"n2","state":"Active"},{"id":"disk-c","name":"c","node":"n3","state":"Active"}],"tasks":[]}`

const lostNodeStatus = `{"clusterID":"99999999-2222-3333-4444-555555555555","health":"Degraded","reason":"2 volumes have fewer replicas than wanted: node n3 is offline","nextStep":"bring node n3 back, or wait: its replicas are made elsewhere in 8m",
"leader":"iomesh-meta-0","totalBytes":2199023255552,"usedBytes":16106127360,"provisionedBytes":21474836480,"volumes":2,"volumesDegraded":2,"resyncBytesLeft":1073741824,"resyncBytesPerSecond":104857600,"asOf":"2026-11-21T11:59:59Z",
"meta":[{"name":"iomesh-meta-0","healthy":true,"leader":true},{"name":"iomesh-meta-1","healthy":true},{"name":"iomesh-meta-2","healthy":false,"message":"no answer since 11:58:30"}],
"nodes":[{"name":"n1","state":"Online","mode":"active","version":"v1","ownedVolumes":2,"sessions":2},{"name":"n2","state":"Online","mode":"active","version":"v1"},{"name":"n3","state":"Offline","mode":"active","version":"v1","message":"silent for 90s"}],
"disks":[{"id":"disk-a","name":"a","node":"n1","state":"Active"},{"id":"disk-b","name":"b","node":"n2","state":"Active","checksumErrors":2},{"id":"disk-c","name":"c","node":"n3","state":"Missing","message":"its node is offline"}],
"tasks":[{"kind":"resync","object":"pvc-1","state":"running","bytesDone":1073741824,"bytesTotal":2147483648,"message":"extent 3 of 4"}]}`

const volumeList = `{"items":[{"id":"11111111-0000-0000-0000-000000000000","name":"pvc-1","iqn":"iqn.2016-02.com.iomesh:11111111-0000-0000-0000-000000000000","lun":0,"portals":["10.0.0.1:10202","10.0.0.2:10202"],
"sizeBytes":10737418240,"replicas":2,"minReplicas":1,"thin":true,"state":"Ready","health":"Degraded","reason":"node n3 is offline","nextStep":"bring node n3 back","ownerNode":"n1","epoch":4,"extents":10,"extentsDegraded":4,
"resyncBytesLeft":1073741824,"allocatedBytes":5368709120,"snapshotBytes":0,"sessions":1,"grants":[{"initiator":"iqn.1993-08.org.debian:01:n1","mode":"exclusive","node":"n1"}],
"extentList":[{"index":0,"members":[{"disk":"disk-a","node":"n1","kind":"full"},{"disk":"disk-b","node":"n2","kind":"joining"}],"absent":[{"disk":"disk-c","node":"n3","kind":"absent"}]}]}]}`

func healthy() *world {
	return &world{
		cluster: &v1alpha1.IOMeshCluster{
			TypeMeta:   metav1.TypeMeta{APIVersion: "iomesh.com/v1alpha1", Kind: "IOMeshCluster"},
			ObjectMeta: metav1.ObjectMeta{Name: "iomesh", Namespace: "iomesh-system", UID: "uid-1"},
			Spec: v1alpha1.IOMeshClusterSpec{DiskDeploymentMode: v1alpha1.AllFlash, Meta: v1alpha1.MetaSpec{Replicas: 3}, Chunk: v1alpha1.ChunkSpec{DeviceMap: map[v1alpha1.MountType]v1alpha1.DeviceSelection{
				v1alpha1.DataStoreWithJournal: {Selector: metav1.LabelSelector{MatchLabels: map[string]string{"iomesh.com/disk-map": "dataStoreWithJournal"}}}}}},
			Status: v1alpha1.IOMeshClusterStatus{Phase: v1alpha1.PhaseReady, Health: v1alpha1.HealthOK, Image: "iomesh/iomesh:v1", Conditions: conditions("True", "Ready", "3/3 nodes online"),
				Hosts: []v1alpha1.HostStatus{{Node: "n1", Attach: "iscsi"}, {Node: "n2", Attach: "iscsi"}, {Node: "n3", Attach: "userspace", AttachReason: "no kernel initiator"}}},
		},
		devices: []v1alpha1.BlockDevice{disk("bd-a", "n1", "/dev/sdb", claimed), disk("bd-b", "n2", "/dev/sdb", claimed), disk("bd-c", "n3", "/dev/sdb", claimed),
			disk("bd-d", "n3", "/dev/sdc"), disk("bd-e", "n1", "/dev/sda", unfit("the machine's / is on it", "has 2 partitions", "mounted at /"))},
		nodes: []corev1.Node{node("n1", "True"), node("n2", "True"), node("n3", "True")},
		pods: []corev1.Pod{pod("iomesh-controller-x", "controller", "n1", "operator"), pod("iomesh-meta-0", "meta", "n1", "meta"), pod("iomesh-meta-1", "meta", "n2", "meta"), pod("iomesh-meta-2", "meta", "n3", "meta"),
			pod("iomesh-chunk-n1", "chunk", "n1", "chunk"), pod("iomesh-chunk-n2", "chunk", "n2", "chunk"), pod("iomesh-chunk-n3", "chunk", "n3", "chunk"),
			pod("iomesh-node-1", "node", "n1", "agent", "csi", "redirect"), pod("iomesh-node-2", "node", "n2", "agent", "csi", "redirect"), pod("iomesh-node-3", "node", "n3", "agent", "csi", "redirect")},
		pvs: []corev1.PersistentVolume{{ObjectMeta: metav1.ObjectMeta{Name: "pvc-1"}, Spec: corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{Namespace: "shop", Name: "db"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "com.iomesh.csi-driver", VolumeHandle: "11111111-0000-0000-0000-000000000000"}}}}},
		ctl: map[string]string{"status": healthyStatus, "volume list": volumeList, "volume show --extents -- pvc-1": strings.TrimSuffix(strings.TrimPrefix(volumeList, `{"items":[`), "]}")},
	}
}

func (w *world) link(t *testing.T) *link.Link {
	t.Helper()
	var core, own []runtime.Object
	for i := range w.nodes {
		core = append(core, &w.nodes[i])
	}
	for i := range w.pods {
		core = append(core, &w.pods[i])
	}
	for i := range w.pvs {
		core = append(core, &w.pvs[i])
	}
	if w.cluster != nil {
		own = append(own, w.cluster)
	}
	for i := range w.devices {
		own = append(own, &w.devices[i])
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	clientset := fake.NewClientset(core...)
	clientset.Discovery().(*fakediscovery.FakeDiscovery).FakedServerVersion = &version.Info{GitVersion: "v1.36.3"}
	w.dyn = dynamicfake.NewSimpleDynamicClient(scheme, own...)
	w.l = &link.Link{Core: clientset, Dynamic: w.dyn, Namespace: "iomesh-system", Run: w}
	return w.l
}

// Run plays the containers: storaged ctl, and the agent behind iomesh-agent dial.
func (w *world) Run(ctx context.Context, t link.Target, argv []string, in io.Reader, out, errs io.Writer) error {
	if argv[0] == "iomesh-agent" {
		return w.agent(ctx, t, in, out, errs)
	}
	if w.ctlErr != nil {
		fmt.Fprintln(errs, w.ctlErr)
		return exec.CodeExitError{Err: w.ctlErr, Code: 1}
	}
	i := slices.Index(argv, "-o")
	answer, ok := w.ctl[strings.Join(argv[i+2:], " ")]
	if !ok {
		return fmt.Errorf("unexpected command %q", argv)
	}
	fmt.Fprintln(out, answer)
	if strings.Contains(answer, `"health":"Degraded","reason":"2 volumes`) {
		return exec.CodeExitError{Err: errors.New("the cluster is Degraded"), Code: 3}
	}
	return nil
}

type fakeAgent struct {
	agentv1.UnimplementedAgentServer
	answer *agentv1.CheckResponse
	host   *fakeHost
}

func (a *fakeAgent) GetInfo(context.Context, *agentv1.GetInfoRequest) (*agentv1.GetInfoResponse, error) {
	return &agentv1.GetInfoResponse{Node: a.answer.Node, Now: a.answer.Now}, nil
}
func (a *fakeAgent) Check(context.Context, *agentv1.CheckRequest) (*agentv1.CheckResponse, error) {
	return a.answer, nil
}

// agent serves one gRPC connection over the streams, as dial joins them to the socket.
func (w *world) agent(ctx context.Context, t link.Target, in io.Reader, out, errs io.Writer) error {
	i := slices.IndexFunc(w.pods, func(p corev1.Pod) bool { return p.Name == t.Pod })
	answer := w.agents[w.pods[i].Spec.NodeName]
	if answer == nil {
		fmt.Fprintln(errs, "iomesh-agent: reach the agent: dial unix /run/iomesh/agent.sock: connect: connection refused (does its container run?)")
		return exec.CodeExitError{Err: errors.New("exit 1"), Code: 1}
	}
	near, far := net.Pipe()
	defer near.Close()
	srv := grpc.NewServer()
	agentv1.RegisterAgentServer(srv, &fakeAgent{answer: answer, host: w.hosts[w.pods[i].Spec.NodeName]})
	go func() { _ = srv.Serve(&oneConn{conn: far, done: make(chan struct{})}) }()
	defer srv.Stop()
	go func() { _, _ = io.Copy(near, in) }()
	done := make(chan struct{})
	go func() { _, _ = io.Copy(out, near); close(done) }()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-done:
		return nil
	}
}

type oneConn struct {
	conn net.Conn
	done chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.done
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}
func (l *oneConn) Addr() net.Addr { return &net.UnixAddr{Name: "fake"} }

// run runs one command line and returns what it printed and its exit code.
func (w *world) run(t *testing.T, line ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	e := &Env{Streams: genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &errs}, Flags: genericclioptions.NewConfigFlags(true)}
	e.Now = func() time.Time { return now }
	e.Open = func() (*link.Link, error) { return w.link(t), nil }
	root := e.root()
	root.SetArgs(line)
	code := Execute(context.Background(), root, &errs)
	text := "$ kubectl iomesh " + strings.Join(line, " ") + "\n" + out.String()
	if errs.Len() > 0 {
		text += "--- standard error\n" + errs.String()
	}
	return text + fmt.Sprintf("--- exit code %d\n", code)
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != got {
		t.Errorf("output differs from %s; got:\n%s", path, got)
	}
}

func lostNode() *world {
	w := healthy()
	w.ctl["status"] = lostNodeStatus
	w.nodes[2] = node("n3", "Unknown")
	w.pods[9].Status.ContainerStatuses[0] = corev1.ContainerStatus{Name: "agent", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 40s"}}}
	old := metav1.NewTime(now.Add(-20 * time.Minute))
	w.devices[2].Status.LastSeen = &old
	return w
}

func TestOutputs(t *testing.T) {
	installing := func() *world {
		w := healthy()
		w.cluster.Status.Phase, w.cluster.Status.Health = v1alpha1.PhaseInstalling, v1alpha1.HealthUnknown
		w.cluster.Status.Conditions = conditions("False", "MetaUnavailable", "the metadata members do not answer (0 of 3 pods ready)")
		w.pods = nil
		w.devices = nil
		return w
	}
	noService := func() *world {
		w := healthy()
		w.ctlErr = errors.New("storaged: reach a meta member: 10.0.0.9:10100: connection refused")
		asOf := metav1.NewTime(now.Add(-10 * time.Minute))
		w.cluster.Status.MetaAsOf, w.cluster.Status.Volumes = &asOf, v1alpha1.VolumeCounts{Total: 2}
		w.cluster.Status.Nodes = []v1alpha1.NodeStatus{{Name: "n1", Roles: []string{"meta", "chunk"}, State: "Online", Mode: "active", Disks: 1, DisksActive: 1}}
		return w
	}
	updating := func() *world {
		w := healthy()
		w.pods[4].Spec.Containers[0].Image = "iomesh/iomesh:v2"
		w.cluster.Status.TaskInProcess = "update of node n1: 1 of 3 chunks"
		return w
	}
	upgrading := func() *world {
		w := updating()
		w.cluster.Spec.Image, w.cluster.Status.UpdatingNode = "iomesh/iomesh:v2", "n2"
		for i := range w.pods {
			if w.pods[i].Spec.NodeName == "n1" {
				w.pods[i].Spec.Containers[0].Image = "iomesh/iomesh:v2"
			}
		}
		return w
	}
	unmapped := func() *world {
		w := healthy()
		w.cluster.Spec.Chunk.DeviceMap = nil
		w.cluster.Spec.DiskDeploymentMode = v1alpha1.HybridFlash
		w.devices = []v1alpha1.BlockDevice{disk("bd-a", "n1", "/dev/sdb"), disk("bd-b", "n2", "/dev/sdb"), disk("bd-c", "n3", "/dev/sdb"), disk("bd-d", "n3", "/dev/sdc", unfit("holds xfs", "mounted at /data (xfs)", "64.0Gi is less than the minimum"))}
		return w
	}
	nothingEligible := func() *world {
		w := unmapped()
		for i := range w.devices {
			unfit("holds ext4")(&w.devices[i])
		}
		return w
	}
	gitops := func() *world {
		w := unmapped()
		w.cluster.Labels = map[string]string{"argocd.argoproj.io/instance": "storage"}
		return w
	}
	checked := func() *world {
		w := healthy()
		ok := func(n string, skew time.Duration, mtu uint32, more ...*agentv1.Finding) *agentv1.CheckResponse {
			return &agentv1.CheckResponse{Node: n, Now: timestamppb.New(now.Add(skew)), DataMtuBytes: mtu, Findings: append([]*agentv1.Finding{{Id: "kernel", Status: agentv1.Status_STATUS_OK, Evidence: "Linux 6.1"}}, more...)}
		}
		w.agents = map[string]*agentv1.CheckResponse{"n1": ok("n1", 0, 9000), "n2": ok("n2", 3*time.Second, 1500,
			&agentv1.Finding{Id: "iscsid", Status: agentv1.Status_STATUS_FAILED, Evidence: "no process iscsid", Fix: "systemctl enable --now iscsid"},
			&agentv1.Finding{Id: "free-space", Status: agentv1.Status_STATUS_WARNING, Evidence: "/var/lib/iomesh has 7.0 GiB free", Fix: "20 GiB are recommended"})}
		return w
	}
	verified := func(answer string) *world {
		w := healthy()
		w.ctl["volume verify --start -- pvc-1"] = `{"volume":"pvc-1","state":"Running","node":"n1","extents":10}`
		w.ctl["volume verify --progress -- pvc-1"] = answer
		return w
	}
	tried := func(last string) *world {
		w := checked()
		w.agents["n3"] = w.agents["n1"]
		w.ctl["--timeout 10m selftest --replicas 2"] = `{"step":"create","ok":true,"detail":"volume iomesh-check-1 of 64Mi with 2 replicas, owner n1","seconds":0.04}` + "\n" +
			`{"step":"login","ok":true,"detail":"logged in at 10.0.0.1:10202","seconds":0.01}` + "\n" + last
		return w
	}
	none := func() *world { w := healthy(); w.cluster = nil; return w }
	for _, c := range []struct {
		name  string
		world *world
		line  []string
	}{
		{"status-healthy", healthy(), []string{"status"}},
		{"status-healthy-json", healthy(), []string{"status", "-o", "json"}},
		{"status-jsonpath", healthy(), []string{"status", "-o", "jsonpath={.health} {.space.totalBytes}"}},
		{"status-node-lost", lostNode(), []string{"status", "-o", "wide"}},
		{"status-installing", installing(), []string{"status"}},
		{"status-service-silent", noService(), []string{"status"}},
		{"status-updating", updating(), []string{"status"}},
		{"status-not-installed", none(), []string{"status"}},
		{"status-color", lostNode(), []string{"status", "--color", "always"}},
		{"node-list", healthy(), []string{"node", "list", "-o", "wide"}},
		{"disk-list", healthy(), []string{"disk", "list"}},
		{"disk-list-name", healthy(), []string{"disk", "list", "--eligible", "-o", "name"}},
		{"disk-list-unknown-node", healthy(), []string{"disk", "list", "--node", "n9"}},
		{"disk-map-plan", unmapped(), []string{"disk", "map", "--all-eligible", "--confirm", "iomesh"}},
		{"disk-map-dry-run", unmapped(), []string{"disk", "map", "--device", "n1:/dev/sdb", "--dry-run", "client"}},
		{"disk-map-no-eligible", nothingEligible(), []string{"disk", "map", "--all-eligible"}},
		{"disk-map-unconfirmed", unmapped(), []string{"disk", "map", "--selector", "iomesh.com/bd-driverType=SSD"}},
		{"disk-map-wrong-name", unmapped(), []string{"disk", "map", "--all-eligible", "--confirm", "other"}},
		{"disk-map-releases", healthy(), []string{"disk", "map", "--selector", "iomesh.com/node=n3", "--confirm", "iomesh"}},
		{"disk-map-gitops", gitops(), []string{"disk", "map", "--all-eligible"}},
		{"disk-map-unknown-device", unmapped(), []string{"disk", "map", "--device", "n1:/dev/sdz"}},
		{"disk-map-no-choice", unmapped(), []string{"disk", "map"}},
		{"volume-list", healthy(), []string{"volume", "list"}},
		{"volume-describe", healthy(), []string{"volume", "describe", "pvc-1"}},
		{"volume-describe-no-name", healthy(), []string{"volume", "describe"}},
		{"volume-verify", verified(`{"volume":"pvc-1","state":"Done","node":"n1","extents":10,"extentsDone":10,"bytesRead":10737418240,"started":"2026-11-21T11:58:00Z","ended":"2026-11-21T11:59:30Z"}`), []string{"volume", "verify", "pvc-1"}},
		{"volume-verify-bad", verified(`{"volume":"pvc-1","state":"Done","node":"n1","extents":10,"extentsDone":10,"extentsPassed":2,"bytesRead":10737418240,"blocksBad":3,"blocksRepaired":2,"blocksLost":1}`), []string{"volume", "verify", "pvc-1"}},
		{"check", checked(), []string{"check"}},
		{"check-volume", tried(`{"step":"move","ok":true,"detail":"owner changed from n1 to n2 during 100 writes, the longest took 32 ms","seconds":0.4}`), []string{"check", "--volume", "-o", "wide"}},
		{"check-volume-failed", tried(`{"step":"write","ok":false,"detail":"iSCSI target is unreachable","seconds":20}`), []string{"check", "--volume"}},
		{"why-cluster", lostNode(), []string{"why"}},
		{"why-volume", lostNode(), []string{"why", "volume/pvc-1"}},
		{"why-node", lostNode(), []string{"why", "node/n3"}},
		{"why-disk", lostNode(), []string{"why", "disk/disk-b"}},
		{"why-healthy", healthy(), []string{"why", "node/n1", "-o", "json"}},
		{"why-unknown", healthy(), []string{"why", "node/n9"}},
		{"why-nonsense", healthy(), []string{"why", "deployment/x"}},
		{"upgrade-watch", upgrading(), []string{"upgrade", "--watch"}},
		{"upgrade-watch-json", upgrading(), []string{"upgrade", "--watch", "-o", "jsonpath={.updated} of {.total} {.nodes[1].step}"}},
		{"upgrade-pause", upgrading(), []string{"upgrade", "--pause"}},
		{"upgrade-rollback-unconfirmed", upgrading(), []string{"upgrade", "--rollback"}},
		{"upgrade-pause-and-resume", upgrading(), []string{"upgrade", "--pause", "--resume"}},
		{"version", updating(), []string{"version"}},
		{"uninstall-refused", func() *world {
			w := healthy()
			w.cluster.Status.AttachedDevices = []v1alpha1.AttachedDevice{{Device: "bd-a"}}
			return w
		}(), []string{"uninstall", "--confirm", "iomesh"}},
		{"usage-unknown-command", healthy(), []string{"frobnicate"}},
		{"usage-unknown-subcommand", healthy(), []string{"disk", "frobnicate"}},
		{"usage-unknown-flag", healthy(), []string{"status", "--frobnicate"}},
		{"usage-bad-output", healthy(), []string{"status", "-o", "xml"}},
	} {
		t.Run(c.name, func(t *testing.T) { golden(t, c.name, c.world.run(t, c.line...)) })
	}
}

func TestMapLabelsDisksBeforeItChangesTheMap(t *testing.T) {
	w := healthy()
	w.run(t, "disk", "map", "--device", "bd-d", "--confirm", "iomesh")
	var patches []string
	for _, a := range w.dyn.Actions() {
		if a.GetVerb() == "patch" {
			patches = append(patches, a.GetResource().Resource)
		}
	}
	if !slices.Equal(patches, []string{"blockdevices", "iomeshclusters"}) {
		t.Errorf("patches %v", patches)
	}
	devices, err := w.l.ListDevices(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if d.Name == "bd-d" && d.Labels["iomesh.com/disk-map"] != "dataStoreWithJournal" {
			t.Errorf("labels %v", d.Labels)
		}
	}
}
