package status

import (
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// FactsOf makes facts of the block service's own records: what the metadata leader evaluates.
func FactsOf(st *storagedv1.ClusterStatus, volumes []*storagedv1.Volume, now time.Time) Facts {
	f := Facts{Now: now, Read: now, Records: true}
	for _, m := range st.GetMeta() {
		f.Meta = append(f.Meta, Member{Name: m.GetName(), Address: m.GetAddress(), Healthy: m.GetHealthy(), Message: m.GetMessage(), CertificateExpires: timeOf(m.GetCertificateExpires())})
	}
	for _, n := range st.GetNodes() {
		f.Nodes = append(f.Nodes, Node{
			Name: n.GetName(), Online: n.GetState() == "Online" || n.GetExpected(), Maintenance: n.GetMode() == "maintenance", Message: n.GetMessage(), LastSeen: timeOf(n.GetLastSeen()),
			Unreachable: n.GetUnreachable(), CertificateExpires: timeOf(n.GetCertificateExpires()), ClockSkew: time.Duration(n.GetClockSkewNanoseconds()),
			LoginRefused: timeOf(n.GetLoginRefused()),
		})
	}
	for _, d := range st.GetDisks() {
		f.Disks = append(f.Disks, Disk{
			ID: d.GetId(), Name: d.GetName(), Node: d.GetNode(), Device: d.GetDevice(), State: diskState(d.GetState()), Message: d.GetMessage(),
			SizeBytes: d.GetSizeBytes(), UsedBytes: d.GetUsedBytes(), IOErrors: d.GetIoErrors(), ChecksumErrors: d.GetChecksumErrors(),
			LastError: timeOf(d.GetLastError()), Latency: time.Duration(d.GetLatencyNanoseconds()), LastSeen: timeOf(d.GetLastSeen()), Replicas: int(d.GetReplicas()),
		})
	}
	for _, v := range volumes {
		s, known := Of(v.GetStatus().GetHealth())
		if !known || s == OK {
			continue
		}
		f.Volumes = append(f.Volumes, VolumeState{Name: v.GetName(), State: s, Reason: v.GetStatus().GetReason(), NextStep: v.GetStatus().GetNextStep(),
			OwnerNode: v.GetOwnerNode(), At: timeOf(v.GetStatus().GetAsOf())})
	}
	f.Space = spaceOf(f.Nodes, f.Disks)
	return f
}

func diskState(s string) DiskState {
	switch s {
	case "Active":
		return DiskActive
	case "Draining":
		return DiskIsDraining
	case "Drained":
		return DiskIsDrained
	case "Stalled":
		return DiskIsStalled
	case "Missing":
		return DiskIsMissing
	case "Removed":
		return DiskIsRemoved
	}
	return DiskHasFailed
}

// reserveShare is the part of a disk that placement keeps free.
const reserveShare = 0.05

func spaceOf(nodes []Node, disks []Disk) Space {
	var s Space
	used, free := map[string]uint64{}, map[string]uint64{}
	for i := range disks {
		d := &disks[i]
		switch d.State {
		case DiskActive, DiskIsStalled:
			s.TotalBytes += d.SizeBytes
			s.UsedBytes += d.UsedBytes
			used[d.Node] += d.UsedBytes
			if room := uint64(float64(d.SizeBytes) * (1 - reserveShare)); room > d.UsedBytes {
				free[d.Node] += room - d.UsedBytes
			}
		case DiskIsDraining:
			s.UsedBytes += d.UsedBytes
			used[d.Node] += d.UsedBytes
		}
	}
	if len(nodes) < 2 {
		return s // there is no other node to make anything good
	}
	var total uint64
	for _, b := range free {
		total += b
	}
	// The node whose loss lacks the most room; the first by name of equal ones.
	var worst int64
	for _, n := range nodes {
		if u := used[n.Name]; u > 0 {
			elsewhere := total - free[n.Name]
			if lack := int64(u) - int64(elsewhere); s.LargestNode == "" || lack > worst {
				worst = lack
				s.LargestNode, s.LargestNodeBytes, s.FreeElsewhereBytes = n.Name, u, elsewhere
			}
		}
	}
	return s
}

// UnsafeNodes counts the nodes whose loss could not be made good in the space of the others.
func UnsafeNodes(nodes []Node, disks []Disk) int {
	n := 0
	for _, node := range nodes {
		var used, free uint64
		for i := range disks {
			d := &disks[i]
			room := uint64(float64(d.SizeBytes) * (1 - reserveShare))
			switch {
			case d.Node == node.Name && (d.State == DiskActive || d.State == DiskIsDraining):
				used += d.UsedBytes
			case d.Node != node.Name && d.State == DiskActive && room > d.UsedBytes:
				free += room - d.UsedBytes
			}
		}
		if used > free {
			n++
		}
	}
	return n
}

// FromStatus makes facts of a leader's answer, for those who add what only they know. st nil: there was no answer, and why says why; read is
// then when there was one last.
func FromStatus(st *storagedv1.ClusterStatus, why string, read, now time.Time) Facts {
	f := Facts{Now: now, Read: read}
	if st == nil {
		f.Silent, f.SilentWhy = true, why
		return f
	}
	if st.GetAsOf() != nil {
		f.Read = st.GetAsOf().AsTime()
		// Clocks of readers differ from the leader's; what was just read is not stale for that.
		if read.After(f.Read) {
			f.Read = read
		}
	}
	for _, w := range st.GetFindings() {
		s, _ := Of(w.GetState())
		f.Given = append(f.Given, Finding{Code: Code(w.GetCode()), State: s, Object: Object{Kind(w.GetObjectKind()), w.GetObject(), w.GetNode()}, Reason: w.GetReason(),
			Evidence: w.GetEvidence(), NextStep: w.GetNextStep(), At: timeOf(w.GetAt()), Stale: w.GetStale()})
	}
	// A leader of an earlier version sends the conclusion only.
	if s, known := Of(st.GetHealth()); known && s != OK && !slices.ContainsFunc(f.Given, func(g Finding) bool { return g.State >= s }) {
		f.Given = append(f.Given, Finding{Code: Reported, State: s, Object: Object{Kind: KindCluster}, Reason: st.GetReason(), NextStep: st.GetNextStep(), At: f.Read})
	}
	return f
}

// Wire makes a verdict's findings ready to be sent.
func (v Verdict) Wire() []*storagedv1.Finding {
	var out []*storagedv1.Finding
	for _, f := range v.Findings {
		out = append(out, &storagedv1.Finding{Code: string(f.Code), State: f.State.Wire(), ObjectKind: string(f.Object.Kind), Object: f.Object.Name, Node: f.Object.Node,
			Reason: f.Reason, Evidence: f.Evidence, NextStep: f.NextStep, At: stamp(f.At), Stale: f.Stale})
	}
	return out
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

func stamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
