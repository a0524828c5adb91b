package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

const namespace = "iomesh-system"

// kinds of the resources that are served.
var kinds = map[string]string{"pods": "Pod", "iomeshclusters": "IOMeshCluster", "blockdevices": "BlockDevice"}

// apiServer is as much of a Kubernetes API server as the screens of the plugin ask for: lists by label, merge patches, and commands in pods.
type apiServer struct {
	t       *testing.T
	address string

	mu      sync.Mutex
	web     *http.Server                // nil: connections are refused
	objects map[string][]map[string]any // by resource
	answers map[string]string           // of commands in pods, by their last words
	patches []string                    // "RESOURCE/NAME BODY", as they came
}

func newAPIServer(t *testing.T) *apiServer {
	t.Helper()
	s := &apiServer{t: t, address: "127.0.0.1:0", objects: map[string][]map[string]any{}, answers: map[string]string{}}
	s.serve()
	t.Cleanup(s.lose)
	return s
}

// serve begins to serve, again at the address of before.
func (s *apiServer) serve() {
	s.t.Helper()
	l, err := net.Listen("tcp", s.address)
	for again := 0; err != nil && again < 100; again++ { // somebody else's connection may have its port for a moment
		<-time.After(50 * time.Millisecond)
		l, err = net.Listen("tcp", s.address)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = l.Addr().String()
	s.mu.Lock()
	defer s.mu.Unlock()
	web := &http.Server{Handler: s}
	s.web = web
	go func() { _ = web.Serve(l) }()
}

// lose ends all connections and refuses new ones.
func (s *apiServer) lose() {
	s.mu.Lock()
	web := s.web
	s.web = nil
	s.mu.Unlock()
	if web != nil {
		_ = web.Close()
	}
}

// kubeconfig writes a kubeconfig for the server and returns its path.
func (s *apiServer) kubeconfig(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: %q}}], contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}]}`, "http://"+s.address)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// set replaces the objects of a resource.
func (s *apiServer) set(resource string, objects any) {
	b, err := json.Marshal(objects)
	if err != nil {
		panic(err)
	}
	var list []map[string]any
	if err := json.Unmarshal(b, &list); err != nil {
		panic(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[resource] = list
}

func (s *apiServer) answer(command, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[command] = text
}

func (s *apiServer) patched() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.patches)
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if i := slices.Index(path, "namespaces"); i >= 0 {
		path = slices.Delete(path, i, i+2)
	}
	switch {
	case r.URL.Path == "/version":
		reply(w, http.StatusOK, map[string]string{"major": "1", "minor": "36", "gitVersion": "v1.36.3"})
	case strings.HasSuffix(r.URL.Path, "/exec"):
		s.exec(w, r)
	case path[0] == "api" && len(path) == 3:
		s.list(w, r, "v1", path[2])
	case path[0] == "apis" && len(path) == 4 && r.Method == http.MethodGet:
		s.list(w, r, path[1]+"/"+path[2], path[3])
	case path[0] == "apis" && len(path) == 5 && r.Method == http.MethodPatch:
		s.patch(w, r, path[3], path[4])
	default:
		refuse(w, r)
	}
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func refuse(w http.ResponseWriter, r *http.Request) {
	reply(w, http.StatusNotFound, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusNotFound,
		Reason: metav1.StatusReasonNotFound, Message: "not served here: " + r.Method + " " + r.URL.Path})
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request, version, resource string) {
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	s.mu.Lock()
	defer s.mu.Unlock()
	objects, ok := s.objects[resource]
	if !ok || err != nil {
		refuse(w, r)
		return
	}
	items := []map[string]any{}
	for _, o := range objects {
		set := labels.Set{}
		meta, _ := o["metadata"].(map[string]any)
		given, _ := meta["labels"].(map[string]any)
		for k, v := range given {
			set[k] = fmt.Sprint(v)
		}
		if selector.Matches(set) {
			items = append(items, o)
		}
	}
	reply(w, http.StatusOK, map[string]any{"apiVersion": version, "kind": kinds[resource] + "List", "metadata": map[string]any{"resourceVersion": "1"}, "items": items})
}

func (s *apiServer) patch(w http.ResponseWriter, r *http.Request, resource, name string) {
	b, err := io.ReadAll(r.Body)
	var change map[string]any
	if err != nil || json.Unmarshal(b, &change) != nil || r.Header.Get("Content-Type") != "application/merge-patch+json" {
		refuse(w, r)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.objects[resource] {
		if o["metadata"].(map[string]any)["name"] == name {
			merge(o, change)
			s.patches = append(s.patches, resource+"/"+name+" "+string(b))
			reply(w, http.StatusOK, o)
			return
		}
	}
	refuse(w, r)
}

// merge is RFC 7386.
func merge(into, change map[string]any) {
	for k, v := range change {
		if v == nil {
			delete(into, k)
			continue
		}
		deeper, ok := v.(map[string]any)
		if !ok {
			into[k] = v
			continue
		}
		at, ok := into[k].(map[string]any)
		if !ok {
			at = map[string]any{}
			into[k] = at
		}
		merge(at, deeper)
	}
}

// exec plays a command in a pod over a WebSocket: its output on channel 1, its end on channel 3.
func (s *apiServer) exec(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	argv := strings.Join(r.URL.Query()["command"], " ")
	out := ""
	for words, text := range s.answers {
		if strings.HasSuffix(argv, words) {
			out = text
		}
	}
	s.mu.Unlock()
	channels := []wsstream.ChannelType{wsstream.IgnoreChannel, wsstream.WriteChannel, wsstream.WriteChannel, wsstream.WriteChannel}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{"v5.channel.k8s.io": {Binary: true, Channels: channels}})
	_, streams, err := conn.Open(w, r)
	if err != nil {
		return
	}
	defer conn.Close()
	end := metav1.Status{Status: metav1.StatusSuccess}
	if out == "" {
		end = metav1.Status{Status: metav1.StatusFailure, Message: "no answer to " + argv}
	}
	_, _ = io.WriteString(streams[1], out)
	_ = json.NewEncoder(streams[3]).Encode(end)
}

// disk is an eligible BlockDevice, unless it is edited.
func disk(name, node, path string, edit ...func(*v1alpha1.BlockDevice)) v1alpha1.BlockDevice {
	d := v1alpha1.BlockDevice{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "BlockDevice"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: v1alpha1.BlockDeviceSpec{Node: node, Path: path, Identity: v1alpha1.Identity{SizeBytes: 1 << 40, DeviceType: v1alpha1.TypeDisk, DriveType: v1alpha1.DriveSSD,
			Model: "SSDPE2KX", Vendor: "INTEL", Serial: "S-" + name}},
		Status: v1alpha1.BlockDeviceStatus{State: v1alpha1.DeviceActive, ClaimState: v1alpha1.Unclaimed, Eligible: true, Health: v1alpha1.DeviceHealthy},
	}
	for _, e := range edit {
		e(&d)
	}
	return d
}

func unfit(health v1alpha1.DeviceHealth, why ...string) func(*v1alpha1.BlockDevice) {
	return func(d *v1alpha1.BlockDevice) {
		d.Status.Eligible, d.Status.Health = false, health
		for _, w := range why {
			d.Status.Reasons = append(d.Status.Reasons, v1alpha1.Reason{Code: "X", Message: w})
		}
	}
}

// pod is one of IOMesh that is ready.
func pod(component, node, image string) corev1.Pod {
	return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "iomesh-" + component + "-" + node, Namespace: namespace,
		Labels: map[string]string{"app.kubernetes.io/part-of": "iomesh", "app.kubernetes.io/component": component}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: component, Image: image}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: "10.0.0.9", ContainerStatuses: []corev1.ContainerStatus{{Name: component, Ready: true,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}}
}

func cluster(edit ...func(*v1alpha1.IOMeshCluster)) []v1alpha1.IOMeshCluster {
	c := v1alpha1.IOMeshCluster{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "IOMeshCluster"},
		ObjectMeta: metav1.ObjectMeta{Name: "iomesh", Namespace: namespace, UID: "uid-1"},
		Spec:       v1alpha1.IOMeshClusterSpec{DiskDeploymentMode: v1alpha1.AllFlash, Meta: v1alpha1.MetaSpec{Replicas: 3}},
		Status:     v1alpha1.IOMeshClusterStatus{Phase: v1alpha1.PhaseReady, Health: v1alpha1.HealthOK},
	}
	for _, e := range edit {
		e(&c)
	}
	return []v1alpha1.IOMeshCluster{c}
}
