package rollout

import (
	"fmt"
	"strings"
	"testing"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// status is healthy, with all named nodes online.
func status(edit func(*storagedv1.ClusterStatus)) *storagedv1.ClusterStatus {
	st := &storagedv1.ClusterStatus{Health: storagedv1.Health_HEALTH_OK, Volumes: 3}
	for _, n := range []string{"n1", "n2", "n3"} {
		st.Nodes = append(st.Nodes, &storagedv1.Node{Name: n, State: "Online", Mode: "active"})
	}
	if edit != nil {
		edit(st)
	}
	return st
}

func wishes(revision string) []Wish {
	return []Wish{{Node: "n1", Revision: revision}, {Node: "n2", Revision: revision}, {Node: "n3", Revision: revision}}
}

func pods(revisions ...string) []Pod {
	var out []Pod
	for i, r := range revisions {
		if r != "" {
			out = append(out, Pod{Node: fmt.Sprintf("n%d", i+1), Revision: r, Ready: true})
		}
	}
	return out
}

func describe(p Plan) string {
	var parts []string
	if p.SetMode != "" {
		mode := "active"
		if p.Maintenance {
			mode = "maintenance"
		}
		parts = append(parts, "mode "+p.SetMode+" "+mode)
	}
	for _, n := range p.Delete {
		parts = append(parts, "delete "+n)
	}
	for _, n := range p.Create {
		parts = append(parts, "create "+n)
	}
	if p.Updating != "" {
		parts = append(parts, "updating "+p.Updating)
	}
	return strings.Join(parts, ", ")
}

func TestNext(t *testing.T) {
	for _, tc := range []struct {
		name    string
		in      Input
		want    string
		waiting string
	}{
		{"nothing to do", Input{Wishes: wishes("a"), Pods: pods("a", "a", "a"), Status: status(nil)}, "", ""},
		{"missing pods are created, all at once", Input{Wishes: wishes("a"), Pods: pods("", "a", "")}, "create n1, create n3", ""},
		{"a drained node gets its pod back only after uncordon",
			Input{Wishes: []Wish{{Node: "n1", Revision: "a", Cordoned: true}}}, "", "kubectl uncordon n1"},
		{"a node that Kubernetes does not know gets none", Input{Wishes: []Wish{{Node: "n1", Revision: "a", NodeGone: true}}}, "", "no longer exists"},
		{"a failed pod is replaced", Input{Wishes: wishes("a")[:1], Pods: []Pod{{Node: "n1", Revision: "a", Finished: true}}}, "delete n1", ""},
		{"a pod on its way out is waited for", Input{Wishes: wishes("a")[:1], Pods: []Pod{{Node: "n1", Revision: "a", Deleting: true}}}, "", "still ending"},
		{"a pod of a former storage node goes", Input{Wishes: wishes("a")[:1], Pods: pods("a", "a")}, "delete n2", ""},
		{"an outdated pod that does not serve is replaced at once, even with nothing known",
			Input{Wishes: wishes("b"), Pods: []Pod{{Node: "n1", Revision: "a"}, {Node: "n2", Revision: "b", Ready: true}, {Node: "n3", Revision: "b", Ready: true}}}, "delete n1", ""},
		{"an update begins by writing down the node", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a"), Status: status(nil)}, "updating n1", "beginning the update of node n1"},
		{"an update waits for redundancy", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a"), Status: status(func(s *storagedv1.ClusterStatus) {
			s.Health, s.Reason, s.VolumesDegraded = storagedv1.Health_HEALTH_DEGRADED, "2 volumes are degraded", 2
		})}, "", "2 volumes are degraded"},
		{"an update waits for resync", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a"), Status: status(func(s *storagedv1.ClusterStatus) { s.ResyncBytesLeft = 5 })}, "", "resync of 5 bytes"},
		{"an update waits while another node is away", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a"), Status: status(func(s *storagedv1.ClusterStatus) { s.Nodes[2].State = "Offline" })}, "", "node n3 is offline"},
		{"an update waits while another node is in maintenance", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a"), Status: status(func(s *storagedv1.ClusterStatus) { s.Nodes[1].Mode = "maintenance" })}, "", "node n2 is in maintenance"},
		{"an update waits for a sick metadata member", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a"), Status: status(func(s *storagedv1.ClusterStatus) {
			s.Meta = []*storagedv1.MetaMember{{Name: "m0"}}
		})}, "", "member m0 is not healthy"},
		{"an update does not begin with the metadata members silent", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a")}, "", "do not answer"},
		{"an update does not begin while a pod is being created", Input{Wishes: wishes("b"), Pods: pods("a", "a", ""), Status: status(nil)}, "create n3", ""},
		{"without any data chunks are simply restarted, one by one", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a"), NeverHadDisks: true}, "delete n1", "holds no data"},
		{"a cordoned node is left for later", Input{Wishes: []Wish{{Node: "n1", Revision: "b", Cordoned: true}, {Node: "n2", Revision: "b"}}, Pods: pods("a", "a"), Status: status(nil)}, "updating n2", "kubectl uncordon n1"},
		{"a paused update begins with no node", Input{Wishes: wishes("b"), Pods: pods("b", "a", "a"), Status: status(nil), Paused: "weekend"}, "", "2 chunks are to be updated; the update is paused (weekend)"},
		{"a paused update finishes its node", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a"), Updating: "n1", Paused: "weekend", Status: status(func(s *storagedv1.ClusterStatus) { s.Nodes[0].Mode = "maintenance" })}, "delete n1, updating n1", "restarting"},
		{"a pause with nothing to update says nothing", Input{Wishes: wishes("a"), Pods: pods("a", "a", "a"), Status: status(nil), Paused: "weekend"}, "", ""},

		{"step 1: owners move away", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a"), Updating: "n1", Status: status(nil)}, "mode n1 maintenance, updating n1", "moving volumes"},
		{"step 2: it waits for the owners", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a"), Updating: "n1", Status: status(func(s *storagedv1.ClusterStatus) { s.Nodes[0].Mode, s.Nodes[0].OwnedVolumes = "maintenance", 2 })}, "updating n1", "2 volumes still move"},
		{"step 3: the pod goes", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a"), Updating: "n1", Status: status(func(s *storagedv1.ClusterStatus) { s.Nodes[0].Mode = "maintenance" })}, "delete n1, updating n1", "restarting"},
		{"step 3 is held when redundancy is lost meanwhile", Input{Wishes: wishes("b"), Pods: pods("a", "a", "a"), Updating: "n1", Status: status(func(s *storagedv1.ClusterStatus) {
			s.Nodes[0].Mode, s.Health, s.VolumesDegraded = "maintenance", storagedv1.Health_HEALTH_DEGRADED, 1
		})}, "updating n1", "waiting until every volume"},
		{"step 4: the new pod is made", Input{Wishes: wishes("b"), Pods: pods("", "a", "a"), Updating: "n1", Status: status(nil)}, "create n1, updating n1", ""},
		{"step 5: the chunk comes online", Input{Wishes: wishes("b"), Pods: pods("b", "a", "a"), Updating: "n1", Status: status(func(s *storagedv1.ClusterStatus) { s.Nodes[0].State, s.Nodes[0].Mode = "Offline", "maintenance" })}, "updating n1", "not online yet"},
		{"step 6: maintenance ends", Input{Wishes: wishes("b"), Pods: pods("b", "a", "a"), Updating: "n1", Status: status(func(s *storagedv1.ClusterStatus) { s.Nodes[0].Mode = "maintenance" })}, "mode n1 active, updating n1", "ending"},
		{"step 7: done with this node", Input{Wishes: wishes("b"), Pods: pods("b", "a", "a"), Updating: "n1", Status: status(nil)}, "", ""},
		{"a broken new pod does not stop a rollback", Input{Wishes: wishes("a"), Pods: []Pod{{Node: "n1", Revision: "b"}, {Node: "n2", Revision: "a", Ready: true}, {Node: "n3", Revision: "a", Ready: true}}, Updating: "n1",
			Status: status(func(s *storagedv1.ClusterStatus) { s.Nodes[0].State = "Offline" })}, "delete n1, updating n1", ""},
		{"an update of a node that is no storage node any more is dropped", Input{Wishes: wishes("b")[1:], Pods: pods("", "b", "b"), Updating: "n1", Status: status(nil)}, "", ""},
		{"with the only chunk nobody takes over its volumes, so none is waited for", Input{Wishes: wishes("b")[:1], Pods: pods("a"), Updating: "n1",
			Status: &storagedv1.ClusterStatus{Health: storagedv1.Health_HEALTH_OK, Nodes: []*storagedv1.Node{{Name: "n1", State: "Online", Mode: "maintenance", OwnedVolumes: 3}}}}, "delete n1, updating n1", "restarting"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := Next(tc.in)
			if got := describe(p); got != tc.want {
				t.Errorf("plan %q, want %q (waiting: %s)", got, tc.want, p.Waiting)
			}
			if !strings.Contains(p.Waiting, tc.waiting) || tc.waiting == "" && tc.want == "" && p.Waiting != "" {
				t.Errorf("waiting %q, want %q", p.Waiting, tc.waiting)
			}
		})
	}
}

// However the facts fall, an update never stops two serving chunks in one step, and none without known redundancy.
func TestAtMostOneServingChunkStops(t *testing.T) {
	healthy, degraded := status(nil), status(func(s *storagedv1.ClusterStatus) { s.Health, s.VolumesDegraded = storagedv1.Health_HEALTH_AT_RISK, 1 })
	inMaintenance := status(func(s *storagedv1.ClusterStatus) { s.Nodes[0].Mode = "maintenance" })
	for bits := range 1 << 6 {
		var ps []Pod
		for i := range 3 {
			p := Pod{Node: fmt.Sprintf("n%d", i+1), Revision: "a", Ready: bits>>i&1 == 1}
			if bits>>(i+3)&1 == 1 {
				p.Revision = "b"
			}
			ps = append(ps, p)
		}
		for _, updating := range []string{"", "n1", "n2"} {
			for _, st := range []*storagedv1.ClusterStatus{nil, healthy, degraded, inMaintenance} {
				p := Next(Input{Wishes: wishes("b"), Pods: ps, Status: st, Updating: updating})
				serving := 0
				for _, n := range p.Delete {
					for _, pod := range ps {
						if pod.Node == n && pod.Ready {
							serving++
						}
					}
				}
				if serving > 1 || serving > 0 && (st == nil || st == degraded) {
					t.Fatalf("%d serving chunks would stop: pods %+v, updating %q, status %v", serving, ps, updating, st)
				}
			}
		}
	}
}

func TestMinAvailable(t *testing.T) {
	for _, tc := range []struct {
		name   string
		st     *storagedv1.ClusterStatus
		chunks int
		upd    string
		want   int32
		reason string
	}{
		{"healthy: one may go", status(nil), 3, "", 2, "every volume has all its replicas"},
		{"unknown: none may go", nil, 3, "", 3, "do not answer"},
		{"degraded: none may go", status(func(s *storagedv1.ClusterStatus) {
			s.Health, s.Reason = storagedv1.Health_HEALTH_DEGRADED, "x is degraded"
		}), 3, "", 3, "x is degraded"},
		{"an update is running", status(nil), 3, "n2", 3, "node n2 is being updated"},
		{"no volumes: nothing to protect", status(func(s *storagedv1.ClusterStatus) { s.Volumes, s.Health = 0, storagedv1.Health_HEALTH_DEGRADED }), 3, "", 2, "no volumes"},
		{"the only chunk stays", status(func(s *storagedv1.ClusterStatus) { s.Nodes = s.Nodes[:1] }), 1, "", 1, "only chunk"},
		{"a node in maintenance may go", status(func(s *storagedv1.ClusterStatus) { s.Nodes[1].Mode = "maintenance" }), 3, "", 2, "node n2 is in maintenance mode and may go"},
		{"a node in maintenance that is gone protects the others", status(func(s *storagedv1.ClusterStatus) { s.Nodes[1].Mode, s.Nodes[1].State = "maintenance", "Offline" }), 3, "", 3, "node n2 is offline"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, reason := MinAvailable(tc.st, tc.chunks, tc.upd)
			if got != tc.want || !strings.Contains(reason, tc.reason) {
				t.Errorf("%d because %q, want %d because %q", got, reason, tc.want, tc.reason)
			}
		})
	}
}
