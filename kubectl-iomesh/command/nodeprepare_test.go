package command

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	agentv1 "github.com/iomesh/iomesh/api/agent/v1"
)

// fakeHost is a machine that an agent prepares: what it answers to each kind of request.
type fakeHost struct {
	mu               sync.Mutex
	plan, done       *agentv1.PrepareResponse
	planErr, doneErr error
	asked            []string // "plan", "undo plan", "run ID"
}

func (h *fakeHost) prepare(req *agentv1.PrepareRequest) (*agentv1.PrepareResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	what := "plan"
	if req.Plan != "" {
		what = "run " + req.Plan
	}
	if req.Undo {
		what = "undo " + what
	}
	h.asked = append(h.asked, what)
	if req.Plan == "" {
		return h.plan, h.planErr
	}
	return h.done, h.doneErr
}

// Prepare implements the interface.
func (a *fakeAgent) Prepare(_ context.Context, req *agentv1.PrepareRequest) (*agentv1.PrepareResponse, error) {
	if a.host == nil {
		return nil, status.Error(codes.Unimplemented, "unknown method Prepare")
	}
	return a.host.prepare(req)
}

const (
	isDone       = agentv1.PrepareState_PREPARE_STATE_DONE
	isNeeded     = agentv1.PrepareState_PREPARE_STATE_NEEDED
	isImpossible = agentv1.PrepareState_PREPARE_STATE_IMPOSSIBLE
	isFailed     = agentv1.PrepareState_PREPARE_STATE_FAILED
)

func response(plan string, steps ...*agentv1.PrepareStep) *agentv1.PrepareResponse {
	return &agentv1.PrepareResponse{Plan: plan, Attach: "userspace", AttachReason: "no kernel initiator: iscsiadm is not installed", Steps: steps}
}

// unprepared is a cluster of a bare node, one that is ready, and one without the package.
func unprepared() *world {
	w := healthy()
	w.agents = map[string]*agentv1.CheckResponse{"n1": {Node: "n1"}, "n2": {Node: "n2"}, "n3": {Node: "n3"}}
	module := func(state agentv1.PrepareState, changed bool) *agentv1.PrepareStep {
		return &agentv1.PrepareStep{Id: "iscsi-module", State: state, Changed: changed, Evidence: "/lib/modules/6.1/modules.dep names it; nothing has it loaded at each start",
			File:     &agentv1.PrepareFile{Path: "/etc/modules-load.d/iomesh.conf", Content: []byte("# IOMesh\niscsi_tcp\n")},
			Commands: []*agentv1.PrepareCommand{{Arguments: []string{"/sbin/modprobe", "iscsi_tcp"}}}}
	}
	ready := []*agentv1.PrepareStep{{Id: "iscsi-module", State: isDone, Evidence: "/sys/module/iscsi_tcp exists"}, {Id: "multipath", State: isDone, Evidence: "multipathd does not run"}}
	missing := &agentv1.PrepareStep{Id: "iscsid", State: isImpossible, Evidence: "iscsiadm is not installed; install the package open-iscsi: apt-get install open-iscsi\x1b[2J"}
	w.hosts = map[string]*fakeHost{
		"n1": {plan: response("p1", module(isNeeded, false)), done: response("p1", module(isDone, true))},
		"n2": {plan: response("p2", ready...)},
		"n3": {plan: response("p3", missing)},
	}
	return w
}

func TestNodePrepare(t *testing.T) {
	failing := func() *world {
		w := unprepared()
		w.hosts["n1"].done.Steps[0] = &agentv1.PrepareStep{Id: "iscsi-module", State: isFailed, Evidence: "/sbin/modprobe iscsi_tcp: exit status 1: Operation not permitted"}
		return w
	}
	changed := func() *world {
		w := unprepared()
		w.hosts["n1"].doneErr = status.Error(codes.FailedPrecondition, "the machine has changed since the plan was made, nothing was done; make a new plan")
		return w
	}
	undoing := func() *world {
		w := unprepared()
		w.hosts["n1"].plan = response("u1", &agentv1.PrepareStep{Id: "iscsi-module", State: isNeeded, Evidence: "was changed by an earlier preparation",
			File: &agentv1.PrepareFile{Path: "/etc/modules-load.d/iomesh.conf", Remove: true}, Left: []string{"module iscsi_tcp stays loaded: it is in use"}})
		w.hosts["n1"].plan.Recorded = true
		w.hosts["n1"].done = response("u1", &agentv1.PrepareStep{Id: "iscsi-module", State: isDone, Changed: true, Evidence: "as it was before, but for what is left alone", Left: []string{"module iscsi_tcp stays loaded: it is in use"}})
		w.hosts["n2"].plan = response("u2")
		w.hosts["n3"].planErr = status.Error(codes.FailedPrecondition, "nothing is taken back while volumes are attached by the kernel's initiator: sessions to IOMesh: 2")
		return w
	}
	old := func() *world { w := unprepared(); w.hosts["n2"] = nil; delete(w.agents, "n3"); return w }
	for _, c := range []struct {
		name  string
		world *world
		line  []string
	}{
		{"node-prepare-dry-run", unprepared(), []string{"node", "prepare", "--all", "--dry-run"}},
		{"node-prepare-unconfirmed", unprepared(), []string{"node", "prepare", "n1"}},
		{"node-prepare", unprepared(), []string{"node", "prepare", "n1", "n2", "--yes"}},
		{"node-prepare-impossible", unprepared(), []string{"node", "prepare", "--all", "--yes", "-q", "-o", "wide"}},
		{"node-prepare-ready", unprepared(), []string{"node", "prepare", "n2"}},
		{"node-prepare-failed", failing(), []string{"node", "prepare", "n1", "--yes"}},
		{"node-prepare-changed", changed(), []string{"node", "prepare", "n1", "--yes"}},
		{"node-prepare-undo", undoing(), []string{"node", "prepare", "--all", "--undo", "--yes"}},
		{"node-prepare-old-agent", old(), []string{"node", "prepare", "n2", "n3", "n9"}},
		{"node-prepare-no-node", unprepared(), []string{"node", "prepare"}},
		{"node-prepare-all-and-node", unprepared(), []string{"node", "prepare", "n1", "--all"}},
	} {
		t.Run(c.name, func(t *testing.T) { golden(t, c.name, c.world.run(t, c.line...)) })
	}
}

func TestOnlyNodesWithSomethingToDoAreTouched(t *testing.T) {
	w := unprepared()
	text := w.run(t, "node", "prepare", "--all", "--yes", "-q", "-o", "json")
	for node, want := range map[string]string{"n1": "plan,run p1", "n2": "plan", "n3": "plan"} {
		if got := strings.Join(w.hosts[node].asked, ","); got != want {
			t.Errorf("node %s was asked %s", node, got)
		}
	}
	// One value on standard output, though plan and result were both shown.
	_, text, _ = strings.Cut(text, "\n")
	text, _, _ = strings.Cut(text, "--- standard error")
	var v nodePreparation
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if len(v.Nodes) != 3 || !v.Nodes[0].Steps[0].Changed || v.Nodes[0].Steps[0].File.Content != "# IOMesh\niscsi_tcp\n" || v.Kind != "NodePreparation" {
		t.Errorf("%+v", v)
	}
}

func TestADryRunAndARefusalChangeNothing(t *testing.T) {
	for _, line := range [][]string{{"node", "prepare", "--all", "--dry-run", "--yes"}, {"node", "prepare", "--all"}, {"node", "prepare", "--all", "--undo"}} {
		w := unprepared()
		for _, h := range w.hosts {
			h.plan.Recorded = true
		}
		w.run(t, line...)
		for node, h := range w.hosts {
			if len(h.asked) != 1 || strings.Contains(h.asked[0], "run") {
				t.Errorf("%v: node %s was asked %v", line, node, h.asked)
			}
		}
	}
}

func TestARecordWithNothingLeftToUndoIsStillForgotten(t *testing.T) {
	w := unprepared()
	w.hosts["n2"].plan.Recorded = true
	w.hosts["n2"].done = response("p2")
	if text := w.run(t, "node", "prepare", "n2", "--undo", "--yes"); !strings.HasSuffix(text, "--- exit code 0\n") {
		t.Error(text)
	}
	if got := strings.Join(w.hosts["n2"].asked, ","); got != "undo plan,undo run p2" {
		t.Errorf("asked %s", got)
	}
}
