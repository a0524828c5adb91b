package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// object is one of Kubernetes, as JSON has it.
type object = map[string]any

// kind is one that is served.
type kind struct {
	schema.GroupVersionResource
	name       string
	namespaced bool
}

func builtin() []kind {
	served := func(group, version, resource, name string, namespaced bool) kind {
		return kind{schema.GroupVersionResource{Group: group, Version: version, Resource: resource}, name, namespaced}
	}
	const rbac = "rbac.authorization.k8s.io"
	return []kind{
		served("", "v1", "namespaces", "Namespace", false), served("", "v1", "secrets", "Secret", true), served("", "v1", "serviceaccounts", "ServiceAccount", true),
		served("", "v1", "configmaps", "ConfigMap", true), served("", "v1", "pods", "Pod", true), served("apps", "v1", "deployments", "Deployment", true),
		served("batch", "v1", "jobs", "Job", true), served("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", true), served("storage.k8s.io", "v1", "csidrivers", "CSIDriver", false),
		served("storage.k8s.io", "v1", "storageclasses", "StorageClass", false), served(rbac, "v1", "roles", "Role", true), served(rbac, "v1", "rolebindings", "RoleBinding", true),
		served(rbac, "v1", "clusterroles", "ClusterRole", false), served(rbac, "v1", "clusterrolebindings", "ClusterRoleBinding", false), served("coordination.k8s.io", "v1", "leases", "Lease", true),
		served("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", false),
	}
}

// kubeAPI is what a Kubernetes API server keeps and does as far as an installation needs it: discovery, definitions of kinds, all verbs on objects
// with versions and preconditions, server-side apply by one manager, watches. Objects have no controllers: Jobs are done at once.
type kubeAPI struct {
	mu      sync.Mutex
	changed *sync.Cond
	objects map[string]object // by key
	version int
	events  []event
}

type event struct {
	kind schema.GroupResource
	watch.EventType
	object  object
	version int
}

func newKubeAPI() *kubeAPI {
	k := &kubeAPI{objects: map[string]object{}}
	k.changed = sync.NewCond(&k.mu)
	return k
}

// copy is another server with the same objects.
func (k *kubeAPI) copy() *kubeAPI {
	k.mu.Lock()
	defer k.mu.Unlock()
	c := newKubeAPI()
	c.version = k.version
	for key, o := range k.objects {
		c.objects[key] = clone(o)
	}
	return c
}

func clone(o object) (out object) {
	b, err := json.Marshal(o)
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		panic(err)
	}
	return out
}

func at(o object, path ...string) any {
	var v any = o
	for _, p := range path {
		m, _ := v.(object)
		v = m[p]
	}
	return v
}

// kinds are those of Kubernetes and those that are defined.
func (k *kubeAPI) kinds() []kind {
	out := builtin()
	for _, key := range slices.Sorted(maps.Keys(k.objects)) {
		if o := k.objects[key]; o["kind"] == "CustomResourceDefinition" {
			text := func(path ...string) string { return fmt.Sprint(at(o, path...)) }
			for _, v := range at(o, "spec", "versions").([]any) {
				gvr := schema.GroupVersionResource{Group: text("spec", "group"), Version: fmt.Sprint(v.(object)["name"]), Resource: text("spec", "names", "plural")}
				out = append(out, kind{gvr, text("spec", "names", "kind"), text("spec", "scope") == "Namespaced"})
			}
		}
	}
	return out
}

// refusal is an error with its HTTP status.
type refusal struct {
	code   int
	reason metav1.StatusReason
	text   string
}

func answer(w http.ResponseWriter, v any, no *refusal) {
	code := http.StatusOK
	if no != nil {
		code, v = no.code, metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(no.code), Reason: no.reason, Message: no.text}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v)
}

func (k *kubeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	switch {
	case path[0] == "version":
		answer(w, object{"major": "1", "minor": "36", "gitVersion": "v1.36.3"}, nil)
	case path[0] == "openapi":
		answer(w, openAPI(strings.TrimPrefix(r.URL.Path, "/openapi/v3")), nil)
	case len(path) <= 2 || len(path) == 3 && path[0] == "apis":
		k.mu.Lock()
		v := k.discovery(path)
		k.mu.Unlock()
		answer(w, v, nil)
	default:
		k.serve(w, r, path)
	}
}

// openAPI says of each built-in kind that field validation is the server's.
func openAPI(path string) object {
	of := func(x kind) string {
		if x.Group == "" {
			return "api/v1"
		}
		return "apis/" + x.Group + "/" + x.Version
	}
	paths := object{}
	for _, x := range builtin() {
		switch path {
		case "":
			paths[of(x)] = object{"serverRelativeURL": "/openapi/v3/" + of(x)}
		case "/" + of(x):
			paths["/"+of(x)+"/"+x.Resource] = object{"patch": object{"x-kubernetes-group-version-kind": object{"group": x.Group, "version": x.Version, "kind": x.name},
				"parameters": []any{object{"name": "fieldValidation", "in": "query"}}}}
		}
	}
	return object{"openapi": "3.0.0", "info": object{"title": "Kubernetes", "version": "v1"}, "paths": paths}
}

func (k *kubeAPI) discovery(path []string) any {
	switch {
	case len(path) == 1 && path[0] == "api":
		return metav1.APIVersions{TypeMeta: metav1.TypeMeta{Kind: "APIVersions"}, Versions: []string{"v1"}}
	case len(path) == 1:
		list := metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}}
		for _, x := range k.kinds() {
			gv := metav1.GroupVersionForDiscovery{GroupVersion: x.Group + "/" + x.Version, Version: x.Version}
			if x.Group != "" && !slices.ContainsFunc(list.Groups, func(g metav1.APIGroup) bool { return g.Name == x.Group }) {
				list.Groups = append(list.Groups, metav1.APIGroup{Name: x.Group, Versions: []metav1.GroupVersionForDiscovery{gv}, PreferredVersion: gv})
			}
		}
		return list
	}
	gv := schema.GroupVersion{Version: path[len(path)-1]}
	if len(path) == 3 {
		gv.Group = path[1]
	}
	list := metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: gv.String()}
	for _, x := range k.kinds() {
		if x.GroupVersion() == gv {
			list.APIResources = append(list.APIResources, metav1.APIResource{Name: x.Resource, Kind: x.name, Namespaced: x.namespaced, Verbs: metav1.Verbs{"create", "delete", "get", "list", "patch", "update", "watch"}})
		}
	}
	return list
}

// subject is what a request is about.
type subject struct {
	kind
	namespace, name string
}

func (s subject) key(name string) string {
	return s.GroupResource().String() + "|" + s.namespace + "|" + name
}

func (k *kubeAPI) find(path []string) (s subject, no *refusal) {
	gv, rest := schema.GroupVersion{Version: path[1]}, path[2:]
	if path[0] == "apis" {
		gv, rest = schema.GroupVersion{Group: path[1], Version: path[2]}, path[3:]
	}
	if rest[0] == "namespaces" && len(rest) > 2 {
		s.namespace, rest = rest[1], rest[2:]
	}
	if len(rest) == 2 {
		s.name = rest[1]
	}
	for _, x := range k.kinds() {
		if x.GroupVersion() == gv && x.Resource == rest[0] && len(rest) <= 2 {
			s.kind = x
			return s, nil
		}
	}
	return s, &refusal{http.StatusNotFound, metav1.StatusReasonNotFound, "the server could not find the requested resource " + strings.Join(path, "/")}
}

func (k *kubeAPI) serve(w http.ResponseWriter, r *http.Request, path []string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	k.mu.Lock()
	s, no := k.find(path)
	if no == nil && r.URL.Query().Get("watch") != "" {
		k.mu.Unlock()
		k.watch(w, r, s)
		return
	}
	var out any
	if no == nil {
		if r.Method == http.MethodGet {
			out, no = k.read(s, r)
		} else {
			out, no = k.write(s, r.Method, r.Header.Get("Content-Type"), body)
		}
	}
	if o, ok := out.(object); ok {
		out = clone(o)
	}
	k.mu.Unlock()
	answer(w, out, no)
}

func (k *kubeAPI) read(s subject, r *http.Request) (any, *refusal) {
	if s.name != "" {
		if o := k.objects[s.key(s.name)]; o != nil {
			return o, nil
		}
		return nil, missing(s, s.name)
	}
	selector, err := labels.Parse(r.URL.Query().Get("labelSelector"))
	if err != nil {
		return nil, &refusal{http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error()}
	}
	items := []object{}
	for _, key := range slices.Sorted(maps.Keys(k.objects)) {
		group, where, _ := strings.Cut(key, "|")
		if o := k.objects[key]; group == s.GroupResource().String() && (s.namespace == "" || strings.HasPrefix(where, s.namespace+"|")) && selector.Matches(labelsOf(o)) {
			items = append(items, o)
		}
	}
	return object{"apiVersion": s.GroupVersion().String(), "kind": s.kind.name + "List", "metadata": object{"resourceVersion": strconv.Itoa(k.version)}, "items": items}, nil
}

func missing(s subject, name string) *refusal {
	return &refusal{http.StatusNotFound, metav1.StatusReasonNotFound, s.Resource + " " + strconv.Quote(name) + " not found"}
}

func labelsOf(o object) labels.Set {
	set := labels.Set{}
	given, _ := at(o, "metadata", "labels").(object)
	for key, v := range given {
		set[key] = fmt.Sprint(v)
	}
	return set
}

// decode reads JSON, YAML, and the protocol buffers of Kubernetes' own kinds.
func decode(body []byte) (in object, err error) {
	if !bytes.HasPrefix(body, []byte("k8s\x00")) {
		return in, yaml.Unmarshal(body, &in)
	}
	o, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		return nil, err
	}
	if in, err = runtime.DefaultUnstructuredConverter.ToUnstructured(o); err != nil {
		return nil, err
	}
	return clone(in), nil
}

// write makes one change and returns the object as it is then.
func (k *kubeAPI) write(s subject, method, contentType string, body []byte) (any, *refusal) {
	in, err := decode(body)
	if err != nil {
		return nil, &refusal{http.StatusBadRequest, metav1.StatusReasonBadRequest, err.Error()}
	}
	name := s.name
	if method == http.MethodPost {
		name = fmt.Sprint(at(in, "metadata", "name"))
	}
	old := k.objects[s.key(name)]
	apply := strings.HasPrefix(contentType, "application/apply-patch")
	creates := method == http.MethodPost || apply && old == nil
	switch {
	case method == http.MethodPost && old != nil:
		return nil, &refusal{http.StatusConflict, metav1.StatusReasonAlreadyExists, s.Resource + " " + strconv.Quote(name) + " already exists"}
	case creates && s.namespaced && k.objects["namespaces||"+s.namespace] == nil:
		return nil, &refusal{http.StatusNotFound, metav1.StatusReasonNotFound, "namespaces " + strconv.Quote(s.namespace) + " not found"}
	case !creates && old == nil:
		return nil, missing(s, name)
	}
	for _, given := range []any{at(in, "metadata", "resourceVersion"), at(in, "preconditions", "resourceVersion")} {
		if old != nil && given != nil && given != "" && given != at(old, "metadata", "resourceVersion") {
			return nil, &refusal{http.StatusConflict, metav1.StatusReasonConflict, "the object has been modified"}
		}
	}
	if method == http.MethodDelete {
		delete(k.objects, s.key(name))
		k.happened(s, watch.Deleted, old)
		return metav1.Status{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusSuccess}, nil
	}
	next := clone(in)
	switch {
	case method == http.MethodPatch && !apply:
		next = clone(old)
		mergeInto(next, in)
	case apply && old != nil: // what others have set stays
		next["status"] = old["status"]
		for _, set := range []string{"labels", "annotations"} {
			if have, ok := at(old, "metadata", set).(object); ok {
				all := maps.Clone(have)
				now, _ := at(in, "metadata", set).(object)
				maps.Copy(all, now)
				next["metadata"].(object)[set] = all
			}
		}
	}
	next = k.complete(s, name, next, old)
	if old != nil && reflect.DeepEqual(next, old) {
		return old, nil
	}
	next["metadata"].(object)["resourceVersion"] = strconv.Itoa(k.version + 1)
	k.objects[s.key(name)] = next
	happened := watch.Modified
	if old == nil {
		happened = watch.Added
	}
	k.happened(s, happened, next)
	return next, nil
}

// complete adds what a server adds, and what controllers would.
func (k *kubeAPI) complete(s subject, name string, next, old object) object {
	next["apiVersion"], next["kind"] = s.GroupVersion().String(), s.kind.name
	switch s.kind.name {
	case "Job":
		next["status"] = object{"succeeded": 1, "conditions": []any{object{"type": "Complete", "status": "True"}}}
	case "CustomResourceDefinition":
		next["status"] = object{"conditions": []any{object{"type": "NamesAccepted", "status": "True"}, object{"type": "Established", "status": "True"}}}
	}
	if next["status"] == nil {
		delete(next, "status")
	}
	meta := next["metadata"].(object)
	meta["name"] = name
	if s.namespaced {
		meta["namespace"] = s.namespace
	}
	meta["uid"], meta["creationTimestamp"], meta["resourceVersion"] = "uid-"+strconv.Itoa(k.version+1), "2026-11-21T12:00:00Z", ""
	if old != nil {
		for _, own := range []string{"uid", "creationTimestamp", "resourceVersion"} {
			meta[own] = at(old, "metadata", own)
		}
	}
	return clone(next)
}

// mergeInto is RFC 7386.
func mergeInto(into, change object) {
	for key, v := range change {
		deeper, ok := v.(object)
		switch {
		case v == nil:
			delete(into, key)
		case !ok:
			into[key] = v
		default:
			have, ok := into[key].(object)
			if !ok {
				have = object{}
				into[key] = have
			}
			mergeInto(have, deeper)
		}
	}
}

func (k *kubeAPI) happened(s subject, what watch.EventType, o object) {
	k.version++
	k.events = append(k.events, event{s.GroupResource(), what, clone(o), k.version})
	k.changed.Broadcast()
}

// watch streams what happens after a version. Lists by watch are refused, as old servers do.
func (k *kubeAPI) watch(w http.ResponseWriter, r *http.Request, s subject) {
	since, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	if r.URL.Query().Get("sendInitialEvents") != "" || err != nil {
		answer(w, nil, &refusal{http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "sendInitialEvents is forbidden"})
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush := w.(http.Flusher).Flush
	flush()
	stop := context.AfterFunc(r.Context(), func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.changed.Broadcast()
	})
	defer stop()
	k.mu.Lock()
	defer k.mu.Unlock()
	for r.Context().Err() == nil {
		for _, e := range k.events {
			if e.version > since && e.kind == s.GroupResource() && (s.namespace == "" || at(e.object, "metadata", "namespace") == s.namespace) {
				_ = json.NewEncoder(w).Encode(object{"type": string(e.EventType), "object": e.object})
			}
		}
		since = k.version
		flush()
		k.changed.Wait()
	}
}

// mortalClient is the way of one process to the server. Once killed, at the latest with its last change, nothing of it comes through any more, and it
// hears nothing.
type mortalClient struct {
	api        *kubeAPI
	kubeconfig string
	web        *httptest.Server

	mu      sync.Mutex
	left    int // the change at which it is killed; 0: never
	changes int
	dead    chan struct{}
	before  func(r *http.Request) // called with each change; may be nil
}

func (k *kubeAPI) client(t *testing.T, left int) *mortalClient {
	t.Helper()
	m := &mortalClient{api: k, left: left, dead: make(chan struct{})}
	m.web = httptest.NewServer(m)
	t.Cleanup(func() { m.web.CloseClientConnections(); m.web.Close() })
	m.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: %q}}], contexts: [{name: c, context: {cluster: c, user: u}}], users: [{name: u, user: {}}]}`, m.web.URL)
	if err := os.WriteFile(m.kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return m
}

func (m *mortalClient) killed() bool {
	select {
	case <-m.dead:
		return true
	default:
		return false
	}
}

func (m *mortalClient) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		if m.killed() {
			panic(http.ErrAbortHandler)
		}
		m.api.ServeHTTP(w, r)
		return
	}
	if m.before != nil {
		m.before(r)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.killed() {
		panic(http.ErrAbortHandler)
	}
	m.changes++
	if m.changes != m.left {
		m.api.ServeHTTP(w, r)
		return
	}
	m.api.ServeHTTP(httptest.NewRecorder(), r) // the change is made, the answer is lost
	close(m.dead)
	panic(http.ErrAbortHandler)
}
