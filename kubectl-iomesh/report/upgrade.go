package report

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/link"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// Upgrade is how far a rolling update is: what `upgrade --watch -o json` prints and the screen shows.
type Upgrade struct {
	output.Meta
	Cluster        string        `json:"cluster"`
	Namespace      string        `json:"namespace"`
	Target         string        `json:"target"` // image
	Complete       bool          `json:"complete"`
	Paused         string        `json:"paused,omitempty"` // why
	Task           string        `json:"task,omitempty"`   // the operator's words
	Updated        int           `json:"updated"`          // nodes
	Total          int           `json:"total"`
	Nodes          []UpgradeNode `json:"nodes"`
	Volumes        int           `json:"volumes"`
	Degraded       int           `json:"degraded"`
	Unavailable    int           `json:"unavailable"`
	BytesLeft      int64         `json:"bytesLeft"`
	BytesPerSecond int64         `json:"bytesPerSecond"`
	DataError      string        `json:"dataError,omitempty"` // why the state of the data is not known
}

// UpgradeStep is where a node is.
type UpgradeStep string

// Steps, in their order. Stuck: a pod of the node does not come up.
const (
	StepWaiting    UpgradeStep = "waiting"
	StepMoving     UpgradeStep = "moving"
	StepRestarting UpgradeStep = "restarting"
	StepReturning  UpgradeStep = "returning"
	StepStuck      UpgradeStep = "stuck"
	StepDone       UpgradeStep = "done"
)

// UpgradeNode is one node. Chunk and Meta are versions, "" where it has none; Pods those of the DaemonSet.
type UpgradeNode struct {
	Name    string      `json:"name"`
	Chunk   string      `json:"chunk,omitempty"`
	Meta    string      `json:"meta,omitempty"`
	Pods    string      `json:"pods,omitempty"`
	Volumes int         `json:"volumes"` // owned
	Step    UpgradeStep `json:"step"`
	Why     string      `json:"why,omitempty"`
}

// BuildUpgrade joins what is known. target is the image that everything shall run; data is nil where the block service does not answer.
func BuildUpgrade(c *v1alpha1.IOMeshCluster, pods []corev1.Pod, data *storagedv1.ClusterStatus, dataErr error, target string) *Upgrade {
	u := &Upgrade{Meta: output.Of("Upgrade"), Cluster: c.Name, Namespace: c.Namespace, Target: target, Paused: c.Annotations[v1alpha1.AnnotationPauseUpdate], Task: c.Status.TaskInProcess,
		Nodes: []UpgradeNode{}}
	service := map[string]*storagedv1.Node{}
	if data != nil {
		u.Volumes, u.Degraded, u.Unavailable = int(data.GetVolumes()), int(data.GetVolumesDegraded()), int(data.GetVolumesUnavailable())
		u.BytesLeft, u.BytesPerSecond = int64(data.GetResyncBytesLeft()), int64(data.GetResyncBytesPerSecond())
		for _, n := range data.GetNodes() {
			service[n.GetName()] = n
		}
	} else if dataErr != nil {
		u.DataError = dataErr.Error()
	}
	byNode := map[string]map[string]*corev1.Pod{}
	for i := range pods {
		p := &pods[i]
		part := link.Component(p)
		if p.Spec.NodeName == "" || part != link.ComponentChunk && part != link.ComponentMeta && part != link.ComponentNode {
			continue
		}
		if byNode[p.Spec.NodeName] == nil {
			byNode[p.Spec.NodeName] = map[string]*corev1.Pod{}
		}
		// Of two, the one that is not on its way out counts.
		if old := byNode[p.Spec.NodeName][part]; old == nil || old.DeletionTimestamp != nil {
			byNode[p.Spec.NodeName][part] = p
		}
	}
	for name := range service {
		if byNode[name] == nil {
			byNode[name] = map[string]*corev1.Pod{}
		}
	}
	if n := c.Status.UpdatingNode; n != "" && byNode[n] == nil {
		byNode[n] = map[string]*corev1.Pod{}
	}
	for _, name := range slices.Sorted(maps.Keys(byNode)) {
		n := upgradeNode(name, byNode[name], service[name], c.Status.UpdatingNode, target)
		u.Nodes = append(u.Nodes, n)
		if n.Step == StepDone {
			u.Updated++
		}
	}
	u.Total = len(u.Nodes)
	u.Complete = u.Total > 0 && u.Updated == u.Total && c.Status.UpdatingNode == ""
	return u
}

func upgradeNode(name string, pods map[string]*corev1.Pod, service *storagedv1.Node, updating, target string) UpgradeNode {
	n := UpgradeNode{Name: name, Volumes: int(service.GetOwnedVolumes()), Step: StepDone,
		Chunk: podVersion(pods[link.ComponentChunk]), Meta: podVersion(pods[link.ComponentMeta]), Pods: podVersion(pods[link.ComponentNode])}
	for _, part := range []string{link.ComponentChunk, link.ComponentMeta, link.ComponentNode} {
		p := pods[part]
		switch {
		case p == nil:
		case podTrouble(p) != "":
			n.Step, n.Why = StepStuck, "pod "+p.Name+": "+podTrouble(p)
			return n
		case link.Image(p) != target:
			n.Step = StepWaiting
		case !podReady(p):
			n.Step = StepRestarting
		}
	}
	chunk := pods[link.ComponentChunk]
	switch {
	case name == updating && (chunk == nil || chunk.DeletionTimestamp != nil):
		n.Step = StepRestarting
	case name == updating && link.Image(chunk) != target && n.Volumes > 0:
		n.Step, n.Why = StepMoving, "still owns "+output.Count(n.Volumes, "volume")
	case name == updating && link.Image(chunk) != target:
		n.Step = StepMoving
	case chunk == nil && service != nil && service.GetState() != "Online":
		n.Step = StepRestarting
	case n.Step == StepDone && (service != nil && chunk != nil) && (service.GetState() != "Online" || service.GetMode() != "active"):
		n.Step, n.Why = StepReturning, strings.ToLower(cmp.Or(service.GetState(), "unknown"))+", "+service.GetMode()
	case n.Step == StepDone && name == updating:
		n.Step = StepReturning
	}
	return n
}

// podVersion is the tag of a pod's image.
func podVersion(p *corev1.Pod) string {
	if p == nil {
		return ""
	}
	image := link.Image(p)
	image, digest, _ := strings.Cut(image, "@")
	if i := strings.LastIndexByte(image, ':'); i > strings.LastIndexByte(image, '/') {
		return image[i+1:]
	}
	if _, hex, ok := strings.Cut(digest, ":"); ok {
		return hex[:min(12, len(hex))]
	}
	return "latest"
}

func podReady(p *corev1.Pod) bool {
	if p.DeletionTimestamp != nil || len(p.Status.ContainerStatuses) == 0 {
		return false
	}
	for _, c := range p.Status.ContainerStatuses {
		if !c.Ready {
			return false
		}
	}
	return true
}

// podTrouble is why a container does not start, for reasons that do not pass by themselves.
func podTrouble(p *corev1.Pod) string {
	for _, c := range p.Status.ContainerStatuses {
		if w := c.State.Waiting; w != nil && slices.Contains([]string{"CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError"}, w.Reason) {
			return fmt.Sprintf("container %s: %s", c.Name, strings.TrimSuffix(w.Reason+" "+w.Message, " "))
		}
	}
	return ""
}

// Names implements output.Value.
func (u *Upgrade) Names() []string {
	var out []string
	for _, n := range u.Nodes {
		out = append(out, "node/"+n.Name)
	}
	return out
}

// Line is the progress in one line.
func (u *Upgrade) Line() string {
	text := fmt.Sprintf("%d of %s updated", u.Updated, output.Count(u.Total, "node"))
	switch {
	case u.Paused != "":
		text += ", paused: " + u.Paused
	case u.Task != "":
		text += "; " + u.Task
	}
	for _, n := range u.Nodes {
		if n.Step == StepStuck {
			text += "; node " + n.Name + " is stuck: " + n.Why
		}
	}
	if u.BytesLeft > 0 {
		text += "; " + output.Bytes(u.BytesLeft) + " to copy"
	}
	return text
}

// Table implements output.Value.
func (u *Upgrade) Table(p *output.Page, _ bool) {
	p.Line("Upgrade of cluster %s to %s: %s", u.Cluster, u.Target, u.Line())
	var rows [][]output.Cell
	for _, n := range u.Nodes {
		step := string(n.Step)
		if n.Why != "" {
			step += ": " + n.Why
		}
		rows = append(rows, []output.Cell{output.C(n.Name), output.C(n.Chunk), output.C(n.Meta), output.C(n.Pods), output.C(n.Volumes), output.C(step)})
	}
	p.Table([]string{"NODE", "CHUNK", "METADATA", "NODE PODS", "VOLUMES", "STEP"}, rows)
}
