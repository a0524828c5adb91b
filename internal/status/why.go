package status

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// Graph says what depends on what: from a pod over its claim and volume to the owner, the replicas, their disks and nodes.
type Graph struct {
	vertices map[Object]*vertex
}

type vertex struct {
	says     string
	evidence []string
	next     []Object
}

// key is an object without its place, which is no part of its identity.
func key(o Object) Object { return Object{Kind: o.Kind, Name: o.Name} }

// Add says of an object what it is and does, and on what it depends. What was said before is kept; new dependencies are added.
func (g *Graph) Add(o Object, says string, evidence []string, on ...Object) {
	if g.vertices == nil {
		g.vertices = map[Object]*vertex{}
	}
	v := g.vertices[key(o)]
	if v == nil {
		v = &vertex{}
		g.vertices[key(o)] = v
	}
	if says != "" {
		v.says = says
	}
	v.evidence = append(v.evidence, evidence...)
	for _, d := range on {
		if !slices.Contains(v.next, key(d)) {
			v.next = append(v.next, key(d))
		}
	}
}

// Has reports whether the object is known.
func (g *Graph) Has(o Object) bool { return g.vertices[key(o)] != nil }

// Names lists the known objects of a kind.
func (g *Graph) Names(k Kind) []string {
	var out []string
	for o := range g.vertices {
		if o.Kind == k {
			out = append(out, o.Name)
		}
	}
	slices.Sort(out)
	return out
}

// AddCluster adds nodes, disks and metadata members.
func (g *Graph) AddCluster(st *storagedv1.ClusterStatus) {
	for _, m := range st.GetMeta() {
		says := "healthy"
		switch {
		case !m.GetHealthy():
			says = "not healthy" + colon(m.GetMessage())
		case m.GetLeader():
			says = "healthy, leads"
		}
		g.Add(Object{Kind: KindMeta, Name: m.GetName()}, says, nil)
		g.Add(Object{Kind: KindCluster}, "", nil, Object{Kind: KindMeta, Name: m.GetName()})
	}
	for _, n := range st.GetNodes() {
		o := Object{Kind: KindNode, Name: n.GetName()}
		says := strings.ToLower(n.GetState())
		if n.GetMode() == "maintenance" {
			says += ", in maintenance"
		}
		g.Add(o, says+fmt.Sprintf(", owns %s", count(int(n.GetOwnedVolumes()), "volume"))+colon(n.GetMessage()), nil)
		g.Add(Object{Kind: KindCluster}, "", nil, o)
	}
	for _, d := range st.GetDisks() {
		o := diskObject(d)
		g.Add(o, strings.ToLower(d.GetState())+colon(d.GetMessage()), []string{fmt.Sprintf("device %s, %s of %s used, %d I/O and %d checksum errors", orText(d.GetDevice(), "?"),
			Bytes(d.GetUsedBytes()), Bytes(d.GetSizeBytes()), d.GetIoErrors(), d.GetChecksumErrors())}, Object{Kind: KindNode, Name: d.GetNode()})
		g.Add(Object{Kind: KindNode, Name: d.GetNode()}, "", nil, o)
	}
}

func diskObject(d *storagedv1.Disk) Object {
	x := Disk{ID: d.GetId(), Name: d.GetName(), Node: d.GetNode()}
	return Object{Kind: KindDisk, Name: x.title()}
}

// DiskNamed finds a disk by its name, its node/name or its id; ok false: none, or several of that name.
func DiskNamed(st *storagedv1.ClusterStatus, name string) (o Object, ok bool) {
	n := 0
	for _, d := range st.GetDisks() {
		x := diskObject(d)
		if d.GetId() == name || x.Name == name {
			return x, true
		}
		if d.GetName() == name {
			o = x
			n++
		}
	}
	return o, n == 1
}

// AddVolume adds a volume with its owner, and with its replicas where the extents were asked for.
func (g *Graph) AddVolume(v *storagedv1.Volume, st *storagedv1.ClusterStatus) {
	s, _ := Of(v.GetStatus().GetHealth())
	o := Object{Kind: KindVolume, Name: v.GetName()}
	owner := Object{Kind: KindNode, Name: v.GetOwnerNode()}
	says := fmt.Sprintf("%s, served by node %s, %s", s, orText(v.GetOwnerNode(), "none"), count(int(v.GetStatus().GetSessions()), "session"))
	var evidence []string
	for _, gr := range v.GetGrants() {
		evidence = append(evidence, "granted to "+gr.GetInitiator()+onNode(gr.GetNode()))
	}
	byID := map[string]Object{}
	for _, d := range st.GetDisks() {
		byID[d.GetId()] = diskObject(d)
	}
	deps := []Object{}
	if owner.Name != "" {
		deps = append(deps, owner)
	}
	away := map[string]bool{}
	for _, e := range v.GetStatus().GetExtentStatus() {
		for _, m := range e.GetMembers() {
			if d, ok := byID[m.GetDiskId()]; ok && !slices.Contains(deps, d) {
				deps = append(deps, d)
			}
		}
		for _, m := range e.GetAbsent() {
			d, ok := byID[m.GetDiskId()]
			if !ok {
				d = Object{Kind: KindDisk, Name: m.GetDiskId()}
			}
			if !slices.Contains(deps, d) {
				deps = append(deps, d)
			}
			away[d.Name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(away)) {
		evidence = append(evidence, "replicas missing on disk "+name)
	}
	g.Add(o, says, evidence, deps...)
}

// FindingOf is a volume's own finding, from how it was judged; ok false: it is well.
func FindingOf(v *storagedv1.Volume) (f Finding, ok bool) {
	s, _ := Of(v.GetStatus().GetHealth())
	code, bad := map[State]Code{Degraded: VolumeDegraded, AtRisk: VolumeAtRisk, Unavailable: VolumeUnavailable}[s]
	if !bad {
		return f, false
	}
	return Finding{Code: code, State: s, Object: Object{KindVolume, v.GetName(), v.GetOwnerNode()}, Reason: "volume " + v.GetName() + ": " + v.GetStatus().GetReason(),
		NextStep: v.GetStatus().GetNextStep(), At: timeOf(v.GetStatus().GetAsOf())}, true
}

// Step is one link of the chain from what was asked about to what it stands on.
type Step struct {
	Object   Object   `json:"object"`
	Says     string   `json:"says"`
	Evidence []string `json:"evidence,omitempty"`
}

// Explanation is the answer to "why".
type Explanation struct {
	Object Object
	// State is the worst of the findings that concern the object.
	State State
	// Causes are those findings, most likely cause first.
	Causes []Finding
	// Chain is what the object stands on, nearest first.
	Chain []Step
}

// chainMax bounds the links shown; findings are taken from all.
const chainMax = 40

// Why explains an object: it follows the graph and collects what was found on the way, causes before consequences. What concerns everything
// (metadata, the pool) is among it always.
func Why(g *Graph, v Verdict, o Object) Explanation {
	x := Explanation{Object: o}
	distance := map[Object]int{key(o): 0}
	queue := []Object{key(o)}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		vx := g.vertices[at]
		if vx == nil {
			continue
		}
		if len(x.Chain) < chainMax && vx.says != "" {
			x.Chain = append(x.Chain, Step{at, vx.says, vx.evidence})
		}
		for _, n := range vx.next {
			if at.Kind == KindNode && n.Kind == KindDisk && at != key(o) {
				continue // the other disks of a node are no concern of what stands on one of them
			}
			if _, seen := distance[n]; !seen {
				distance[n] = distance[at] + 1
				queue = append(queue, n)
			}
		}
	}
	whole := o.Kind == KindCluster
	for _, f := range v.Findings {
		_, near := distance[key(f.Object)]
		if near || whole || f.Object.Kind == KindMeta || f.Object.Kind == KindCluster {
			x.Causes = append(x.Causes, f)
			x.State = max(x.State, f.State)
		}
	}
	// A finding that is no fault explains nothing while there is one that is.
	slices.SortStableFunc(x.Causes, func(a, b Finding) int {
		return cmp.Or(boolLess(a.State == OK, b.State == OK), cmp.Compare(depth[a.Code], depth[b.Code]), cmp.Compare(distance[key(a.Object)], distance[key(b.Object)]),
			cmp.Compare(a.Object.String(), b.Object.String()))
	})
	return x
}

func boolLess(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Next is the next step: of the first cause that has one.
func (x Explanation) Next() string {
	for _, f := range x.Causes {
		if f.NextStep != "" {
			return f.NextStep
		}
	}
	return ""
}

// ParseObject reads KIND/NAME; a disk's name may be NODE/NAME.
func ParseObject(s string) (Object, error) {
	kind, name, ok := strings.Cut(s, "/")
	switch k := Kind(strings.ToLower(kind)); k {
	case KindCluster:
		return Object{Kind: k}, nil
	case KindMeta, KindNode, KindDisk, KindVolume, KindPVC, KindPod, KindComponent:
		if ok && name != "" {
			return Object{Kind: k, Name: name}, nil
		}
	case "":
		return Object{Kind: KindCluster}, nil
	}
	return Object{}, fmt.Errorf("%q is not pvc/NAME, pod/NAME, volume/NAME, node/NAME, disk/NAME, meta/NAME or cluster", s)
}
