package diskmap

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// LabelMap marks devices that were chosen one by one; its value is the mount type.
const LabelMap = "iomesh.com/disk-map"

// Choice is what the user asked for.
type Choice struct {
	MountType v1alpha1.MountType
	// Exactly one of these.
	Selector    string   // label selector
	Devices     []string // names, or node:path
	AllEligible bool
}

// Taken is a device that the plan takes.
type Taken struct {
	Name        string `json:"name"`
	Node        string `json:"node"`
	Path        string `json:"path"`
	SizeBytes   int64  `json:"sizeBytes"`
	DriveType   string `json:"driveType"`
	Model       string `json:"model,omitempty"`
	Serial      string `json:"serial,omitempty"`
	Fingerprint string `json:"fingerprint"`
	Content     string `json:"contentFingerprint"`
	// Label says that the device gets the label LabelMap.
	Label bool `json:"label,omitempty"`
	// Replaces is what the device's annotation AnnotationReplaces will be, "" for none.
	Replaces string `json:"replaces,omitempty"`
}

// Excluded is a device that matches the choice, or exists, and is not taken.
type Excluded struct {
	Name    string   `json:"name"`
	Node    string   `json:"node"`
	Path    string   `json:"path"`
	Reasons []string `json:"reasons"`
}

// Plan is what would be done.
type Plan struct {
	output.Meta
	Cluster     string                                          `json:"cluster"`
	Namespace   string                                          `json:"namespace"`
	MountType   v1alpha1.MountType                              `json:"mountType"`
	Takes       []Taken                                         `json:"takes"`
	Keeps       int                                             `json:"keeps"` // devices claimed already that stay
	Releases    []Taken                                         `json:"releases"`
	Excluded    []Excluded                                      `json:"excluded"`
	DeviceMap   map[v1alpha1.MountType]v1alpha1.DeviceSelection `json:"deviceMap"`
	Mode        v1alpha1.DiskDeploymentMode                     `json:"diskDeploymentMode"`
	ModeChanges bool                                            `json:"diskDeploymentModeChanges,omitempty"`
	Before      Pool                                            `json:"before"`
	After       Pool                                            `json:"after"`
	Live        bool                                            `json:"live"` // the selector takes later disks too
}

// Pool is what a set of disks amounts to, in bytes.
type Pool struct {
	Disks        int              `json:"disks"`
	RawBytes     int64            `json:"rawBytes"`
	Usable2Bytes int64            `json:"usable2Bytes"` // with 2 replicas on different nodes
	Usable3Bytes int64            `json:"usable3Bytes"`
	ByNodeBytes  map[string]int64 `json:"byNodeBytes"`
	// HeadroomBytes is what stays usable with 2 replicas after the loss of the largest node.
	HeadroomBytes int64 `json:"headroomBytes"`
}

// Make plans. The error says what is wrong with the choice.
func Make(c *v1alpha1.IOMeshCluster, devices []v1alpha1.BlockDevice, choice Choice) (*Plan, error) {
	p, devices := newPlan(c, devices)
	p.MountType = choice.MountType
	if err := p.mode(c); err != nil {
		return nil, err
	}
	if err := p.choose(devices, choice); err != nil {
		return nil, err
	}
	if err := p.effects(c, devices); err != nil {
		return nil, err
	}
	return p, nil
}

// newPlan returns a plan that changes nothing, and the devices in order, in a copy.
func newPlan(c *v1alpha1.IOMeshCluster, devices []v1alpha1.BlockDevice) (*Plan, []v1alpha1.BlockDevice) {
	p := &Plan{
		Meta: output.Of("DiskMapPlan"), Cluster: c.Name, Namespace: c.Namespace, Mode: c.Spec.DiskDeploymentMode,
		Takes: []Taken{}, Releases: []Taken{}, Excluded: []Excluded{}, DeviceMap: map[v1alpha1.MountType]v1alpha1.DeviceSelection{},
	}
	maps.Copy(p.DeviceMap, c.Spec.Chunk.DeviceMap)
	devices = slices.Clone(devices)
	slices.SortFunc(devices, byNodeAndPath)
	return p, devices
}

func byNodeAndPath(a, b v1alpha1.BlockDevice) int {
	if n := strings.Compare(a.Spec.Node, b.Spec.Node); n != 0 {
		return n
	}
	if n := len(a.Spec.Path) - len(b.Spec.Path); n != 0 {
		return n
	}
	return strings.Compare(a.Spec.Path, b.Spec.Path)
}

// mode makes the deployment mode fit the mount type, where it may still change.
func (p *Plan) mode(c *v1alpha1.IOMeshCluster) error {
	want := v1alpha1.HybridFlash
	switch p.MountType {
	case v1alpha1.DataStoreWithJournal:
		want = v1alpha1.AllFlash
	case v1alpha1.DataStore, v1alpha1.CacheWithJournal:
	default:
		return fmt.Errorf("mount type %q: use dataStoreWithJournal, cacheWithJournal or dataStore", p.MountType)
	}
	if c.Spec.DiskDeploymentMode == want {
		return nil
	}
	if len(c.Spec.Chunk.DeviceMap) > 0 {
		return fmt.Errorf("mount type %s needs diskDeploymentMode %s; cluster %s has %s and disks mapped, so it cannot change", p.MountType, want, c.Name, c.Spec.DiskDeploymentMode)
	}
	p.Mode, p.ModeChanges = want, true
	return nil
}

// choose sets the new selection for the mount type.
func (p *Plan) choose(devices []v1alpha1.BlockDevice, choice Choice) error {
	given := 0
	for _, g := range []bool{choice.Selector != "", len(choice.Devices) > 0, choice.AllEligible} {
		if g {
			given++
		}
	}
	if given != 1 {
		return fmt.Errorf("choose disks by exactly one of --selector, --device and --all-eligible")
	}
	old, had := p.DeviceMap[choice.MountType]
	if choice.Selector != "" {
		sel, err := metav1.ParseToLabelSelector(choice.Selector)
		if err != nil {
			return fmt.Errorf("--selector %q: %w", choice.Selector, err)
		}
		p.DeviceMap[choice.MountType] = v1alpha1.DeviceSelection{Selector: *sel, Exclude: old.Exclude}
		p.Live = true
		return nil
	}
	chosen, err := resolve(devices, choice)
	if err != nil {
		return err
	}
	byLabel := metav1.LabelSelector{MatchLabels: map[string]string{LabelMap: string(choice.MountType)}}
	if had && !selects(old.Selector, LabelMap, string(choice.MountType)) {
		return fmt.Errorf("mount type %s is mapped by the selector %q already; choose with --selector, or add labels that it matches", choice.MountType, metav1.FormatLabelSelector(&old.Selector))
	}
	p.DeviceMap[choice.MountType] = v1alpha1.DeviceSelection{Selector: byLabel, Exclude: slices.DeleteFunc(slices.Clone(old.Exclude), func(n string) bool { return chosen[n] })}
	for i := range devices {
		d := &devices[i]
		if chosen[d.Name] {
			mark(d, choice.MountType)
		}
	}
	return nil
}

// mark gives a device the label, in this copy only: the effects are judged as if it had it.
func mark(d *v1alpha1.BlockDevice, mt v1alpha1.MountType) {
	d.Labels = maps.Clone(d.Labels)
	if d.Labels == nil {
		d.Labels = map[string]string{}
	}
	d.Labels[LabelMap] = string(mt)
}

func selects(s metav1.LabelSelector, key, value string) bool {
	return len(s.MatchExpressions) == 0 && len(s.MatchLabels) == 1 && s.MatchLabels[key] == value
}

// resolve finds the devices of a choice by name.
func resolve(devices []v1alpha1.BlockDevice, choice Choice) (map[string]bool, error) {
	chosen := map[string]bool{}
	if choice.AllEligible {
		for i := range devices {
			if usable(&devices[i]) {
				chosen[devices[i].Name] = true
			}
		}
		return chosen, nil
	}
	for _, want := range choice.Devices {
		d, err := Find(devices, want)
		if err != nil {
			return nil, err
		}
		chosen[d.Name] = true
	}
	return chosen, nil
}

func usable(d *v1alpha1.BlockDevice) bool {
	return d.Status.Eligible && d.Status.State == v1alpha1.DeviceActive && d.Spec.Claim == nil && d.DeletionTimestamp == nil
}

// effects judges every device under the new map.
func (p *Plan) effects(c *v1alpha1.IOMeshCluster, devices []v1alpha1.BlockDevice) error {
	before, after := newPool(), newPool()
	type entry struct {
		selector labels.Selector
		exclude  []string
	}
	entries := map[v1alpha1.MountType]entry{}
	for mt, s := range p.DeviceMap {
		sel, err := metav1.LabelSelectorAsSelector(&s.Selector)
		if err != nil {
			return fmt.Errorf("selector of %s: %w", mt, err)
		}
		entries[mt] = entry{sel, s.Exclude}
	}
	for i := range devices {
		d := &devices[i]
		var matched []v1alpha1.MountType
		for mt, e := range entries {
			if e.selector.Matches(labels.Set(d.Labels)) && !slices.Contains(e.exclude, d.Name) {
				matched = append(matched, mt)
			}
		}
		slices.Sort(matched)
		ours := d.Spec.Claim != nil && d.Spec.Claim.ClusterRef.UID == string(c.UID)
		pooled := func(mt v1alpha1.MountType) bool { return mt != v1alpha1.CacheWithJournal }
		if ours && pooled(d.Spec.Claim.MountType) {
			before.add(d)
		}
		exclude := func(reasons ...string) {
			p.Excluded = append(p.Excluded, Excluded{d.Name, d.Spec.Node, d.Spec.Path, reasons})
		}
		switch {
		case ours && slices.Contains(matched, d.Spec.Claim.MountType):
			p.Keeps++
			if pooled(d.Spec.Claim.MountType) {
				after.add(d)
			}
		case ours:
			p.Releases = append(p.Releases, taken(d))
		case len(matched) > 1:
			exclude(fmt.Sprintf("is selected by %s and %s at once", matched[0], matched[1]))
		case len(matched) == 0 && usable(d):
			exclude("eligible, not chosen")
		case !usable(d):
			exclude(why(d)...)
		default:
			t := taken(d)
			t.Label = d.Labels[LabelMap] != ""
			p.Takes = append(p.Takes, t)
			if pooled(matched[0]) {
				after.add(d)
			}
		}
	}
	p.Before, p.After = before.pool(), after.pool()
	return nil
}

func taken(d *v1alpha1.BlockDevice) Taken {
	id := &d.Spec.Identity
	return Taken{Name: d.Name, Node: d.Spec.Node, Path: d.Spec.Path, SizeBytes: id.SizeBytes, DriveType: string(id.DriveType), Model: id.Model, Serial: id.Serial,
		Fingerprint: id.Fingerprint(), Content: id.ContentFingerprint()}
}

// why lists all reasons against a device.
func why(d *v1alpha1.BlockDevice) []string {
	var out []string
	if d.Status.State != v1alpha1.DeviceActive {
		out = append(out, "is not there (state "+output.Or(string(d.Status.State))+")")
	}
	for _, r := range d.Status.Reasons {
		if r.Code != "Gone" {
			out = append(out, r.Message)
		}
	}
	if len(out) == 0 && d.Spec.Claim != nil {
		out = append(out, "is claimed by cluster "+d.Spec.Claim.ClusterRef.Name)
	}
	if len(out) == 0 {
		out = append(out, "has not been judged by its agent yet")
	}
	return out
}

// Verify compares the devices, read again, with the plan. The error names the first device that has changed.
func (p *Plan) Verify(devices []v1alpha1.BlockDevice) error {
	now := map[string]*v1alpha1.BlockDevice{}
	for i := range devices {
		now[devices[i].Name] = &devices[i]
	}
	for _, t := range p.Takes {
		d := now[t.Name]
		switch {
		case d == nil:
			return fmt.Errorf("disk %s (%s on %s) has disappeared since the plan was made", t.Name, t.Path, t.Node)
		case d.Spec.Identity.Fingerprint() != t.Fingerprint:
			return fmt.Errorf("disk %s (%s on %s) is another device than when the plan was made", t.Name, t.Path, t.Node)
		case d.Spec.Identity.ContentFingerprint() != t.Content:
			return fmt.Errorf("the content of disk %s (%s on %s) has changed since the plan was made", t.Name, t.Path, t.Node)
		case !usable(d):
			return fmt.Errorf("disk %s (%s on %s) is not eligible any more: %s", t.Name, t.Path, t.Node, strings.Join(why(d), "; "))
		}
	}
	for _, t := range p.Releases {
		if d := now[t.Name]; d != nil && d.Spec.Identity.Fingerprint() != t.Fingerprint {
			return fmt.Errorf("disk %s (%s on %s) is another device than when the plan was made", t.Name, t.Path, t.Node)
		}
	}
	return nil
}
