package report

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// DriverName is the CSI driver whose PersistentVolumes are ours.
const DriverName = "com.iomesh.csi-driver"

// VolumeList is what `volume list` prints.
type VolumeList struct {
	output.Meta
	Items  []Volume `json:"items"`
	Unread []Unread `json:"unread,omitempty"`
}

// Volume is one volume and who uses it.
type Volume struct {
	ID             string    `json:"id"`
	Name           string    `json:"name"`
	State          string    `json:"state"`
	Health         string    `json:"health"`
	Reason         string    `json:"reason,omitempty"`
	NextStep       string    `json:"nextStep,omitempty"`
	SizeBytes      int64     `json:"sizeBytes"`
	AllocatedBytes int64     `json:"allocatedBytes"`
	SnapshotBytes  int64     `json:"snapshotBytes"`
	Replicas       int       `json:"replicas"`
	MinReplicas    int       `json:"minReplicas"`
	Thin           bool      `json:"thin"`
	OwnerNode      string    `json:"ownerNode,omitempty"`
	Epoch          uint64    `json:"epoch"`
	Sessions       int       `json:"sessions"`
	ResyncLeft     int64     `json:"resyncBytesLeft"`
	IQN            string    `json:"iqn"`
	LUN            uint32    `json:"lun"`
	Portals        []string  `json:"portals"`
	PV             string    `json:"persistentVolume,omitempty"`
	PVC            string    `json:"persistentVolumeClaim,omitempty"` // namespace/name
	Grants         []Grant   `json:"grants"`
	Extents        *Extents  `json:"extents,omitempty"`
	Source         string    `json:"source,omitempty"`
	Placement      []Replica `json:"placement,omitempty"` // replicas per node, when asked for
}

// Grant is who may use a volume.
type Grant struct {
	Initiator string `json:"initiator"`
	Node      string `json:"node,omitempty"`
	Mode      string `json:"mode"`
}

// Extents counts the extents of a volume.
type Extents struct {
	Total       int `json:"total"`
	Degraded    int `json:"degraded"`
	Unavailable int `json:"unavailable"`
}

// Replica counts the members of a volume's extents on a disk.
type Replica struct {
	Node   string `json:"node"`
	DiskID string `json:"diskID"`
	Full   int    `json:"full"`
	Other  int    `json:"other"`  // joining, delta
	Absent int    `json:"absent"` // known to be behind
}

// BuildVolume describes one volume; pvs are the cluster's PersistentVolumes, to find whose it is.
func BuildVolume(v *storagedv1.Volume, pvs []corev1.PersistentVolume) Volume {
	st := v.GetStatus()
	out := Volume{
		ID: v.Id, Name: v.Name, State: v.State, Health: HealthWord(st.GetHealth()), Reason: st.GetReason(), NextStep: st.GetNextStep(),
		SizeBytes: int64(v.SizeBytes), AllocatedBytes: int64(st.GetAllocatedBytes()), SnapshotBytes: int64(st.GetSnapshotBytes()),
		Replicas: int(v.ReplicaFactor), MinReplicas: int(v.MinReplicas), Thin: v.Thin, OwnerNode: v.OwnerNode, Epoch: v.Epoch, Sessions: int(st.GetSessions()),
		ResyncLeft: int64(st.GetResyncBytesLeft()), IQN: v.Iqn, LUN: v.Lun, Portals: append([]string{}, v.Portals...), Grants: []Grant{},
	}
	if st != nil {
		out.Extents = &Extents{int(st.Extents), int(st.ExtentsDegraded), int(st.ExtentsUnavailable)}
	}
	for _, g := range v.Grants {
		mode := strings.ToLower(strings.TrimPrefix(g.Mode.String(), "ACCESS_MODE_"))
		out.Grants = append(out.Grants, Grant{g.Initiator, g.Node, mode})
	}
	switch {
	case v.SourceSnapshotId != "":
		out.Source = "snapshot " + v.SourceSnapshotId
	case v.SourceVolumeId != "":
		out.Source = "volume " + v.SourceVolumeId
	}
	for i := range pvs {
		csi := pvs[i].Spec.CSI
		if csi == nil || csi.Driver != DriverName || !(csi.VolumeHandle == v.Id || pvs[i].Name == v.Name) {
			continue
		}
		out.PV = pvs[i].Name
		if ref := pvs[i].Spec.ClaimRef; ref != nil {
			out.PVC = ref.Namespace + "/" + ref.Name
		}
	}
	out.Placement = placement(st.GetExtentStatus())
	return out
}

func placement(extents []*storagedv1.ExtentStatus) []Replica {
	byDisk := map[string]*Replica{}
	at := func(m *storagedv1.Member) *Replica {
		if byDisk[m.DiskId] == nil {
			byDisk[m.DiskId] = &Replica{Node: m.Node, DiskID: m.DiskId}
		}
		return byDisk[m.DiskId]
	}
	for _, e := range extents {
		for _, m := range e.Members {
			if m.Kind == "full" {
				at(m).Full++
			} else {
				at(m).Other++
			}
		}
		for _, m := range e.Absent {
			at(m).Absent++
		}
	}
	var out []Replica
	for _, r := range byDisk {
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b Replica) int { return strings.Compare(a.Node+a.DiskID, b.Node+b.DiskID) })
	return out
}

// BuildVolumes makes the list, by name.
func BuildVolumes(volumes []*storagedv1.Volume, pvs []corev1.PersistentVolume) *VolumeList {
	l := &VolumeList{Meta: output.Of("VolumeList"), Items: []Volume{}}
	for _, v := range volumes {
		l.Items = append(l.Items, BuildVolume(v, pvs))
	}
	slices.SortFunc(l.Items, func(a, b Volume) int { return strings.Compare(a.Name, b.Name) })
	return l
}

// Names implements output.Value.
func (l *VolumeList) Names() []string {
	var out []string
	for _, v := range l.Items {
		out = append(out, "volume/"+v.Name)
	}
	return out
}

// Table implements output.Value.
func (l *VolumeList) Table(p *output.Page, wide bool) {
	if len(l.Items) == 0 {
		p.Line("No volumes.")
		return
	}
	header := []string{"NAME", "CLAIM", "SIZE", "USED", "REPLICAS", "HEALTH", "OWNER", "SESSIONS", "TO COPY"}
	if wide {
		header = append(header, "ID", "IQN", "REASON")
	}
	var rows [][]output.Cell
	for _, v := range l.Items {
		resync := "-"
		if v.ResyncLeft > 0 {
			resync = output.Bytes(v.ResyncLeft)
		}
		row := []output.Cell{output.C(v.Name), output.C(output.Or(v.PVC)), output.C(output.Bytes(v.SizeBytes)), output.C(output.Bytes(v.AllocatedBytes)), output.C(v.Replicas),
			word(v.Health), output.C(output.Or(v.OwnerNode)), output.C(v.Sessions), output.C(resync)}
		if wide {
			row = append(row, output.C(v.ID), output.C(v.IQN), output.C(output.Or(v.Reason)))
		}
		rows = append(rows, row)
	}
	p.Table(header, rows)
	for _, u := range l.Unread {
		p.Line("Could not read %s: %s", u.What, u.Why)
	}
}

// VolumeDetail is what `volume describe` prints.
type VolumeDetail struct {
	output.Meta
	Volume `json:",inline"`
	Unread []Unread `json:"unread,omitempty"`
}

// Names implements output.Value.
func (d *VolumeDetail) Names() []string { return []string{"volume/" + d.Name} }

// Table implements output.Value.
func (d *VolumeDetail) Table(p *output.Page, _ bool) {
	v := &d.Volume
	line := func(key, format string, args ...any) { p.Line("%-11s "+format, append([]any{key}, args...)...) }
	line("Name", "%s", v.Name)
	line("ID", "%s", v.ID)
	if v.PVC != "" {
		line("Claim", "%s (PersistentVolume %s)", v.PVC, v.PV)
	}
	health := p.Styled(v.Health, styleOf(v.Health))
	if v.Reason != "" {
		health += "  " + v.Reason
	}
	line("Health", "%s", health)
	if v.NextStep != "" {
		line("", "→ %s", v.NextStep)
	}
	line("State", "%s", output.Or(v.State))
	kind := "thin"
	if !v.Thin {
		kind = "thick"
	}
	line("Size", "%s, %s used, %s only in snapshots; %s", output.Bytes(v.SizeBytes), output.Bytes(v.AllocatedBytes), output.Bytes(v.SnapshotBytes), kind)
	line("Replicas", "%d, writes need %d", v.Replicas, v.MinReplicas)
	line("Owner", "%s, epoch %d", output.Or(v.OwnerNode), v.Epoch)
	line("Target", "%s, LUN %d", v.IQN, v.LUN)
	line("Portals", "%s", output.Or(strings.Join(v.Portals, ", ")))
	if v.Source != "" {
		line("Made from", "%s", v.Source)
	}
	if v.Extents != nil {
		line("Extents", "%d (%d degraded, %d unavailable), %s to copy", v.Extents.Total, v.Extents.Degraded, v.Extents.Unavailable, output.Bytes(v.ResyncLeft))
	}
	line("Sessions", "%d", v.Sessions)
	if len(v.Grants) > 0 {
		p.Line("")
		var rows [][]output.Cell
		for _, g := range v.Grants {
			rows = append(rows, []output.Cell{output.C(output.Or(g.Node)), output.C(g.Mode), output.C(g.Initiator)})
		}
		p.Table([]string{"GRANTED TO", "MODE", "INITIATOR"}, rows)
	}
	if len(v.Placement) > 0 {
		p.Line("")
		var rows [][]output.Cell
		for _, r := range v.Placement {
			absent := output.C(r.Absent)
			if r.Absent > 0 {
				absent.Style = output.Warn
			}
			rows = append(rows, []output.Cell{output.C(output.Or(r.Node)), output.C(r.DiskID), output.C(r.Full), output.C(r.Other), absent})
		}
		p.Table([]string{"NODE", "DISK", "IN SYNC", "JOINING", "BEHIND"}, rows)
	}
	for _, u := range d.Unread {
		p.Line("Could not read %s: %s", u.What, u.Why)
	}
}
