package rollout

import (
	"fmt"
	"slices"
	"strings"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// Pod is what the plan needs to know of a chunk pod.
type Pod struct {
	Node     string
	Revision string
	Exists   bool
	Ready    bool
	Finished bool // phase Failed or Succeeded: it never starts again
	Deleting bool
}

// Wish is a storage node that should have a pod.
type Wish struct {
	Node     string
	Revision string
	// NodeGone: the Node object does not exist.
	NodeGone bool
	// Cordoned: kubectl cordon or drain.
	Cordoned bool
}

// Input of a plan.
type Input struct {
	Wishes []Wish
	Pods   []Pod
	// Status of the cluster; nil when the metadata members do not answer.
	Status *storagedv1.ClusterStatus
	// Updating is the node whose update has begun.
	Updating string
	// Paused is why no further update is to begin; empty: it may.
	Paused string
	// NeverHadDisks: there is no data yet, so nothing can lose redundancy.
	NeverHadDisks bool
}

// Plan is the next step.
type Plan struct {
	Create []string // nodes
	Delete []string // nodes
	// SetMode is to be called before Delete, if not empty.
	SetMode     string // node
	Maintenance bool   // the mode to set: maintenance, or active
	// Updating is to be recorded before anything else is done.
	Updating string
	// Waiting says what is waited for, in words; empty when nothing is left to do.
	Waiting string
	// Outdated counts the pods of another revision.
	Outdated int
}

// Next plans.
func Next(in Input) Plan {
	plan := Plan{Updating: in.Updating}
	pods := map[string]Pod{}
	for _, p := range in.Pods {
		p.Exists = true
		pods[p.Node] = p
	}
	wished := map[string]bool{}
	var waiting []string
	var outdated []Wish
	for _, w := range in.Wishes {
		wished[w.Node] = true
		p := pods[w.Node]
		switch {
		case p.Deleting:
			waiting = append(waiting, fmt.Sprintf("the old chunk pod of node %s is still ending", w.Node))
		case !p.Exists && w.NodeGone:
			waiting = append(waiting, fmt.Sprintf("node %s no longer exists in Kubernetes", w.Node))
		case !p.Exists && w.Cordoned:
			waiting = append(waiting, fmt.Sprintf("node %s is cordoned: its chunk starts after kubectl uncordon %s", w.Node, w.Node))
		case !p.Exists:
			plan.Create = append(plan.Create, w.Node)
		case p.Finished:
			plan.Delete = append(plan.Delete, w.Node)
		case p.Revision != w.Revision:
			plan.Outdated++
			if !p.Ready {
				plan.Delete = append(plan.Delete, w.Node)
			} else {
				outdated = append(outdated, w)
			}
		case !p.Ready:
			waiting = append(waiting, fmt.Sprintf("the chunk of node %s is not ready", w.Node))
		}
	}
	for _, p := range in.Pods {
		if !wished[p.Node] && !p.Deleting {
			plan.Delete = append(plan.Delete, p.Node)
		}
	}
	slices.Sort(plan.Delete)
	slices.Sort(plan.Create)

	settled := len(plan.Create) == 0 && len(plan.Delete) == 0 && len(waiting) == 0
	plan.update(in, outdated, pods, settled, &waiting)
	plan.Waiting = strings.Join(waiting, "; ")
	return plan
}

// update takes the running update one step on, or begins the next.
func (plan *Plan) update(in Input, outdated []Wish, pods map[string]Pod, settled bool, waiting *[]string) {
	if u := in.Updating; u != "" {
		i := slices.IndexFunc(in.Wishes, func(w Wish) bool { return w.Node == u })
		switch {
		case i < 0:
			plan.Updating = "" // no storage node any more
		case in.Status == nil:
			*waiting = append(*waiting, fmt.Sprintf("update of node %s: the metadata members do not answer", u))
		case pods[u].Exists && pods[u].Ready && !pods[u].Deleting && pods[u].Revision == in.Wishes[i].Revision:
			n := node(in.Status, u)
			switch {
			case n == nil || n.GetState() != "Online":
				*waiting = append(*waiting, fmt.Sprintf("update of node %s: its chunk is not online yet", u))
			case n.GetMode() == "maintenance":
				plan.SetMode, plan.Maintenance = u, false
				*waiting = append(*waiting, fmt.Sprintf("update of node %s: ending its maintenance mode", u))
			default:
				plan.Updating = ""
			}
		case pods[u].Exists && pods[u].Ready && !pods[u].Deleting:
			// Still the old pod: the first half.
			if reason := Blocked(in.Status, u); reason != "" {
				*waiting = append(*waiting, fmt.Sprintf("update of node %s: %s", u, reason))
				return
			}
			n := node(in.Status, u)
			if n.GetMode() != "maintenance" {
				plan.SetMode, plan.Maintenance = u, true
				*waiting = append(*waiting, fmt.Sprintf("update of node %s: moving volumes to other owners", u))
				return
			}
			if owned := n.GetOwnedVolumes(); owned > 0 && othersOnline(in.Status, u) {
				*waiting = append(*waiting, fmt.Sprintf("update of node %s: %d volumes still move to other owners", u, owned))
				return
			}
			plan.Delete = append(plan.Delete, u)
			*waiting = append(*waiting, fmt.Sprintf("update of node %s: restarting its chunk", u))
		}
		return
	}
	if len(outdated) == 0 || !settled {
		return
	}
	if in.Paused != "" {
		*waiting = append(*waiting, fmt.Sprintf("%d chunks are to be updated; the update is paused (%s): kubectl iomesh upgrade --resume", len(outdated), in.Paused))
		return
	}
	slices.SortFunc(outdated, func(a, b Wish) int { return strings.Compare(a.Node, b.Node) })
	for _, w := range outdated {
		if w.Cordoned {
			*waiting = append(*waiting, fmt.Sprintf("node %s is cordoned: its chunk is updated after kubectl uncordon %s", w.Node, w.Node))
			continue
		}
		if in.NeverHadDisks {
			plan.Delete = append(plan.Delete, w.Node)
			*waiting = append(*waiting, fmt.Sprintf("restarting the chunk of node %s, which holds no data", w.Node))
			return
		}
		if reason := Blocked(in.Status, w.Node); reason != "" {
			*waiting = append(*waiting, fmt.Sprintf("%d chunks are to be updated, next node %s: %s", len(outdated), w.Node, reason))
			return
		}
		plan.Updating = w.Node
		*waiting = append(*waiting, fmt.Sprintf("beginning the update of node %s", w.Node))
		return
	}
}

// Blocked says why the chunk of a node must not stop now; empty: it may. Every volume keeps its redundancy: all data healthy,
// nothing to resync, and all other chunks online and active.
func Blocked(st *storagedv1.ClusterStatus, name string) string {
	if st == nil {
		return "the metadata members do not answer, so redundancy is not known"
	}
	if h := st.GetHealth(); h != storagedv1.Health_HEALTH_OK {
		reason := st.GetReason()
		if reason == "" {
			reason = h.String()
		}
		// A node in maintenance mode for this very update is not a reason to stop it.
		if n := node(st, name); n == nil || n.GetMode() != "maintenance" || st.GetVolumesDegraded()+st.GetVolumesUnavailable() > 0 {
			return "waiting until every volume has all its replicas: " + reason
		}
	}
	if left := st.GetResyncBytesLeft(); left > 0 {
		return fmt.Sprintf("waiting for the resync of %d bytes", left)
	}
	for _, m := range st.GetMeta() {
		if !m.GetHealthy() {
			return fmt.Sprintf("metadata member %s is not healthy", m.GetName())
		}
	}
	for _, n := range st.GetNodes() {
		if n.GetName() == name {
			continue
		}
		if n.GetState() != "Online" {
			return fmt.Sprintf("the chunk of node %s is %s", n.GetName(), strings.ToLower(n.GetState()))
		}
		if n.GetMode() == "maintenance" {
			return fmt.Sprintf("node %s is in maintenance mode", n.GetName())
		}
	}
	return ""
}

func node(st *storagedv1.ClusterStatus, name string) *storagedv1.Node {
	for _, n := range st.GetNodes() {
		if n.GetName() == name {
			return n
		}
	}
	return nil
}

func othersOnline(st *storagedv1.ClusterStatus, name string) bool {
	for _, n := range st.GetNodes() {
		if n.GetName() != name && n.GetState() == "Online" {
			return true
		}
	}
	return false
}
