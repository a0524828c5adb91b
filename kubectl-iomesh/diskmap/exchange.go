package diskmap

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/kubectl-iomesh/output"
)

// Exchange plans to take the disks out (names, or NODE:PATH) out of the cluster, and a disk in, unless that is empty, into the cluster as
// what the first of them was. Disks that are on their way out already stay so: the same plan can be made again. The error says what is
// wrong with the choice.
func Exchange(c *v1alpha1.IOMeshCluster, devices []v1alpha1.BlockDevice, out []string, in string) (*Plan, error) {
	p, devices := newPlan(c, devices)
	for _, name := range out {
		if err := p.leave(c, devices, name); err != nil {
			return nil, err
		}
	}
	if in != "" {
		if err := p.enter(devices, in); err != nil {
			return nil, err
		}
	}
	if err := p.effects(c, devices); err != nil {
		return nil, err
	}
	return p, nil
}

// Find returns the device of a name, or of a NODE:PATH; of several at one path, the last.
func Find(devices []v1alpha1.BlockDevice, name string) (*v1alpha1.BlockDevice, error) {
	node, path, byPath := strings.Cut(name, ":")
	for i := range slices.Backward(devices) {
		d := &devices[i]
		if d.Name == name || byPath && d.Spec.Node == node && d.Spec.Path == path {
			return d, nil
		}
	}
	return nil, fmt.Errorf("there is no disk %q; names are in: kubectl iomesh disk list", name)
}

// leave excludes a disk from the selection that it is claimed by.
func (p *Plan) leave(c *v1alpha1.IOMeshCluster, devices []v1alpha1.BlockDevice, name string) error {
	d, err := Find(devices, name)
	if err != nil {
		return err
	}
	mt := v1alpha1.MountType("")
	if cl := d.Spec.Claim; cl != nil && cl.ClusterRef.UID == string(c.UID) {
		mt = cl.MountType
	}
	for t, s := range p.DeviceMap {
		if mt == "" && slices.Contains(s.Exclude, d.Name) {
			mt = t // released earlier
		}
	}
	if mt == "" {
		return fmt.Errorf("disk %s (%s on %s) is not used by cluster %s", d.Name, d.Spec.Path, d.Spec.Node, c.Name)
	}
	if p.MountType == "" {
		p.MountType = mt
	}
	s, ok := p.DeviceMap[mt]
	if !ok || slices.Contains(s.Exclude, d.Name) {
		return nil // selected no more
	}
	s.Exclude = append(slices.Clone(s.Exclude), d.Name)
	slices.Sort(s.Exclude)
	p.DeviceMap[mt] = s
	return nil
}

// enter makes the plan's mount type select a further disk.
func (p *Plan) enter(devices []v1alpha1.BlockDevice, name string) error {
	d, err := Find(devices, name)
	if err != nil {
		return err
	}
	s, had := p.DeviceMap[p.MountType]
	if !had {
		return fmt.Errorf("no disks are mapped as %s any more: map the new one with kubectl iomesh disk map", p.MountType)
	}
	if !usable(d) && (d.Spec.Claim == nil || d.Spec.Claim.MountType != p.MountType) {
		return fmt.Errorf("disk %s (%s on %s) cannot be used: %s", d.Name, d.Spec.Path, d.Spec.Node, strings.Join(why(d), "; "))
	}
	s.Exclude = slices.DeleteFunc(slices.Clone(s.Exclude), func(n string) bool { return n == d.Name })
	p.DeviceMap[p.MountType] = s
	if selects(s.Selector, LabelMap, string(p.MountType)) {
		mark(d, p.MountType)
		return nil
	}
	sel, err := metav1.LabelSelectorAsSelector(&s.Selector)
	if err != nil {
		return fmt.Errorf("selector of %s: %w", p.MountType, err)
	}
	if !sel.Matches(labels.Set(d.Labels)) {
		return fmt.Errorf("disk %s (%s on %s) is not matched by the selector %q of %s: give it the labels, then it is taken", d.Name, d.Spec.Path, d.Spec.Node,
			metav1.FormatLabelSelector(&s.Selector), p.MountType)
	}
	return nil
}

// AnnotationReplaces is put on a disk that takes the place of another, together with what has it selected: the name of the other and the id of the claim
// that ends with it. By it the same replacement, asked for again, is found again, however far it has come.
const AnnotationReplaces = "iomesh.com/replaces"

// Replaces notes in the plan that the disk in takes the place of another one.
func (p *Plan) Replaces(devices []v1alpha1.BlockDevice, in, old string) error {
	n, err := Find(devices, in)
	if err != nil {
		return err
	}
	o, err := Find(devices, old)
	if err != nil {
		return err
	}
	for i := range p.Takes {
		if p.Takes[i].Name == n.Name && o.Spec.Claim != nil {
			p.Takes[i].Replaces = o.Name + "/" + o.Spec.Claim.UID
		}
	}
	return nil
}

// replacement is the disk that has been chosen to take the place of another one, nil when none has.
func replacement(c *v1alpha1.IOMeshCluster, devices []v1alpha1.BlockDevice, o *v1alpha1.BlockDevice) *v1alpha1.BlockDevice {
	out := false
	for _, s := range c.Spec.Chunk.DeviceMap {
		out = out || o.Spec.Claim == nil && slices.Contains(s.Exclude, o.Name)
	}
	for i := range devices {
		name, claim, ok := strings.Cut(devices[i].Annotations[AnnotationReplaces], "/")
		// A disk that was taken into use again since has another claim.
		if ok && name == o.Name && (out || o.Spec.Claim != nil && o.Spec.Claim.UID == claim) {
			return &devices[i]
		}
	}
	return nil
}

// Substitute finds the disk to take the place of another: the one that was chosen before, otherwise the only one that can be used on the same node and is
// not smaller.
func Substitute(c *v1alpha1.IOMeshCluster, devices []v1alpha1.BlockDevice, old string) (string, error) {
	o, err := Find(devices, old)
	if err != nil {
		return "", err
	}
	if d := replacement(c, devices, o); d != nil {
		return d.Name, nil
	}
	var fit []string
	for i := range devices {
		d := &devices[i]
		if d.Spec.Node == o.Spec.Node && d.Name != o.Name && usable(d) && d.Spec.Identity.SizeBytes >= o.Spec.Identity.SizeBytes {
			fit = append(fit, d.Name)
		}
	}
	slices.Sort(fit)
	switch len(fit) {
	case 1:
		return fit[0], nil
	case 0:
		return "", fmt.Errorf("node %s has no eligible disk of at least %s; put one in, or name one of another node with --with", o.Spec.Node, output.Bytes(o.Spec.Identity.SizeBytes))
	}
	return "", fmt.Errorf("node %s has %d eligible disks (%s): say which with --with", o.Spec.Node, len(fit), strings.Join(fit, ", "))
}
