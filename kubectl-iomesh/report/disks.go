package report

import (
	"strings"
	"time"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// DiskList is what `disk list` prints.
type DiskList struct {
	output.Meta
	Items  []Disk   `json:"items"`
	Unread []Unread `json:"unread,omitempty"`
}

// Disk is one BlockDevice.
type Disk struct {
	Name       string    `json:"name"`
	Node       string    `json:"node"`
	Path       string    `json:"path"`
	SizeBytes  int64     `json:"sizeBytes"`
	DeviceType string    `json:"deviceType"`
	DriveType  string    `json:"driveType"`
	Model      string    `json:"model,omitempty"`
	Serial     string    `json:"serial,omitempty"`
	Content    string    `json:"content,omitempty"`
	State      string    `json:"state"`
	Claim      string    `json:"claimState"`
	MountType  string    `json:"mountType,omitempty"`
	DiskID     string    `json:"diskID,omitempty"`
	UsedBytes  int64     `json:"usedBytes,omitempty"`
	Health     string    `json:"health,omitempty"`
	Eligible   bool      `json:"eligible"`
	Reasons    []string  `json:"reasons"`
	Message    string    `json:"message,omitempty"`
	LastSeen   time.Time `json:"lastSeen"`
}

// BuildDisks makes the list, in the given order.
func BuildDisks(devices []v1alpha1.BlockDevice) *DiskList {
	l := &DiskList{Meta: output.Of("DiskList"), Items: []Disk{}}
	for i := range devices {
		d := &devices[i]
		id := &d.Spec.Identity
		row := Disk{
			Name: d.Name, Node: d.Spec.Node, Path: d.Spec.Path, SizeBytes: id.SizeBytes, DeviceType: string(id.DeviceType), DriveType: string(id.DriveType),
			Model: strings.TrimSpace(id.Vendor + " " + id.Model), Serial: id.Serial, Content: content(id), State: string(d.Status.State), Claim: string(d.Status.ClaimState),
			DiskID: d.Status.DiskID, Health: string(d.Status.Health), Eligible: d.Status.Eligible, Reasons: []string{}, Message: d.Status.Message,
		}
		if c := d.Status.Claim; c != nil {
			row.MountType = string(c.MountType)
		} else if c := d.Spec.Claim; c != nil {
			row.MountType, row.Claim = string(c.MountType), "Pending"
		}
		if d.Status.Usage != nil {
			row.UsedBytes = d.Status.Usage.UsedBytes
		}
		if d.Status.LastSeen != nil {
			row.LastSeen = d.Status.LastSeen.UTC()
		}
		for _, r := range d.Status.Reasons {
			row.Reasons = append(row.Reasons, r.Message)
		}
		l.Items = append(l.Items, row)
	}
	return l
}

func content(id *v1alpha1.Identity) string {
	var words []string
	if id.PartitionTable != "" {
		words = append(words, id.PartitionTable)
	}
	if id.Filesystem != "" {
		words = append(words, id.Filesystem)
	}
	if id.Superblock != nil {
		words = append(words, "iomesh")
	}
	return strings.Join(words, ",")
}

// Names implements output.Value.
func (l *DiskList) Names() []string {
	var out []string
	for _, d := range l.Items {
		out = append(out, "blockdevice.iomesh.com/"+d.Name)
	}
	return out
}

// Table implements output.Value.
func (l *DiskList) Table(p *output.Page, wide bool) {
	if len(l.Items) == 0 {
		p.Line("No disks found.")
		return
	}
	header := []string{"NODE", "PATH", "SIZE", "TYPE", "CONTENT", "STATE", "CLAIM", "MOUNT", "USED", "ELIGIBLE", "WHY NOT"}
	if wide {
		header = append(header, "NAME", "MODEL", "SERIAL", "HEALTH", "DISK ID")
	}
	var rows [][]output.Cell
	for _, d := range l.Items {
		eligible, why := output.S("yes", output.Good), ""
		if !d.Eligible {
			eligible = output.C("no")
			why = strings.Join(d.Reasons, "; ")
			if !wide && len(d.Reasons) > 1 {
				why = d.Reasons[0] + " (and " + output.Count(len(d.Reasons)-1, "more reason") + ")"
			}
		}
		if d.Message != "" {
			why = d.Message
		}
		used := "-"
		if d.UsedBytes > 0 {
			used = output.Bytes(d.UsedBytes)
		}
		row := []output.Cell{output.C(d.Node), output.C(d.Path), output.C(output.Bytes(d.SizeBytes)), output.C(output.Or(d.DriveType)), output.C(output.Or(d.Content)),
			word(d.State), word(d.Claim), output.C(output.Or(d.MountType)), output.C(used), eligible, output.C(output.Or(why))}
		if wide {
			row = append(row, output.C(d.Name), output.C(output.Or(d.Model)), output.C(output.Or(d.Serial)), word(d.Health), output.C(output.Or(d.DiskID)))
		}
		rows = append(rows, row)
	}
	p.Table(header, rows)
	for _, u := range l.Unread {
		p.Line("Could not read %s: %s", u.What, u.Why)
	}
}
