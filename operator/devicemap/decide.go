package devicemap

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

// Input is what a decision needs.
type Input struct {
	Cluster   *v1alpha1.IOMeshCluster
	ClusterID string
	Devices   []v1alpha1.BlockDevice
	// NodeAllowed reports whether a node may hold disks of this cluster, and if not why.
	NodeAllowed func(node string) (bool, string)
	// NewUID makes the UID of a claim.
	NewUID func() string
}

// Decision is what to do.
type Decision struct {
	// Claims to write, by device name.
	Claims []NewClaim
	// Held are the devices that this cluster holds and wants to keep.
	Held []string
	// Releases are the devices that this cluster holds and wants no more: to drain, then to release.
	Releases []Release
	// Findings are devices that the map selects and that are not claimed, with the reason.
	Findings []Finding
	// Selected counts the devices that the map selects, claimed or not.
	Selected int
}

// NewClaim is a claim to write into a device's spec.
type NewClaim struct {
	Device string
	Claim  v1alpha1.Claim
}

// Release is a claim to give back and why.
type Release struct {
	Device string
	Node   string
	Reason string
}

// Finding is a reason why a selected device is not used.
type Finding struct {
	Device string
	Node   string
	Path   string
	Reason string
}

func (f Finding) String() string {
	return fmt.Sprintf("%s (%s on %s) %s", f.Device, f.Path, f.Node, f.Reason)
}

// Owns reports whether the claim is one of this cluster.
func Owns(cluster *v1alpha1.IOMeshCluster, c *v1alpha1.Claim) bool {
	return c != nil && c.ClusterRef.UID == string(cluster.UID)
}

// Decide makes the decision. It fails only on a selector that cannot be parsed; then nothing is claimed or released at all,
// because a broken selector must not look like one that selects nothing.
func Decide(in Input) (Decision, error) {
	selectors, err := compile(in.Cluster.Spec.Chunk.DeviceMap)
	if err != nil {
		return Decision{}, err
	}
	devices := slices.Clone(in.Devices)
	slices.SortFunc(devices, func(a, b v1alpha1.BlockDevice) int {
		if c := strings.Compare(a.Spec.Node, b.Spec.Node); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	allowed := capNodes(in, devices, selectors)

	var d Decision
	for i := range devices {
		dev := &devices[i]
		types := selectors.of(dev)
		if len(types) > 0 {
			d.Selected++
		}
		if Owns(in.Cluster, dev.Spec.Claim) {
			if reason := unwanted(dev, types, allowed); reason != "" {
				d.Releases = append(d.Releases, Release{dev.Name, dev.Spec.Node, reason})
			} else {
				d.Held = append(d.Held, dev.Name)
			}
			continue
		}
		if len(types) == 0 {
			continue
		}
		find := func(format string, args ...any) {
			d.Findings = append(d.Findings, Finding{dev.Name, dev.Spec.Node, dev.Spec.Path, fmt.Sprintf(format, args...)})
		}
		if len(types) > 1 {
			find("is selected by %s and %s: a device has one mount type, so narrow a selector or use exclude", types[0], types[1])
			continue
		}
		if ok, reason := allowed(dev.Spec.Node); !ok {
			find("is on a node that %s", reason)
			continue
		}
		if reason := notUsable(in, dev); reason != "" {
			find("%s", reason)
			continue
		}
		d.Claims = append(d.Claims, NewClaim{dev.Name, newClaim(in, dev, types[0])})
	}
	return d, nil
}

// unwanted says why a held device is to be given back; empty: keep it.
func unwanted(dev *v1alpha1.BlockDevice, types []v1alpha1.MountType, allowed func(string) (bool, string)) string {
	switch {
	case len(types) == 0:
		return "no longer selected by chunk.deviceMap"
	case !slices.Contains(types, dev.Spec.Claim.MountType):
		return fmt.Sprintf("selected as %s now, claimed as %s", types[0], dev.Spec.Claim.MountType)
	}
	// Two selectors that match a held device are a mistake of the map, not a wish to lose the device: keep it.
	if ok, reason := allowed(dev.Spec.Node); !ok {
		return "its node " + reason
	}
	return ""
}

// notUsable says why an unclaimed device cannot be claimed; empty: it can.
func notUsable(in Input, dev *v1alpha1.BlockDevice) string {
	st := &dev.Status
	switch {
	case dev.DeletionTimestamp != nil:
		return "is being deleted"
	case dev.Spec.Claim != nil:
		return fmt.Sprintf("is claimed by the cluster %s (%s); if that cluster is gone, remove spec.claim", dev.Spec.Claim.ClusterRef.Name, dev.Spec.Claim.ClusterRef.UID)
	case st.Claim != nil:
		return "is still being released by its agent"
	case st.State != v1alpha1.DeviceActive:
		return fmt.Sprintf("is not active (state %q)", st.State)
	case !dev.Spec.Identity.HasStableID():
		return "has neither serial, WWN, backing file nor partition UUID: it could not be told from another device"
	case st.Eligible || ownDisk(in.ClusterID, dev):
		return ""
	case len(st.Reasons) == 0:
		return "has not been judged by its agent yet"
	}
	return "is not eligible: " + join(st.Reasons)
}

// ownDisk reports whether nothing but this cluster's own superblock speaks against the device.
func ownDisk(clusterID string, dev *v1alpha1.BlockDevice) bool {
	sb := dev.Spec.Identity.Superblock
	if sb == nil || clusterID == "" || sb.ClusterID != clusterID || len(dev.Status.Reasons) == 0 {
		return false
	}
	for _, r := range dev.Status.Reasons {
		if r.Code != v1alpha1.ReasonSuperblock {
			return false
		}
	}
	return true
}

func newClaim(in Input, dev *v1alpha1.BlockDevice, mountType v1alpha1.MountType) v1alpha1.Claim {
	id := &dev.Spec.Identity
	reclaim := v1alpha1.ReclaimDelete
	if rp := in.Cluster.Spec.ReclaimPolicy; rp != nil && rp.BlockDevice != "" {
		reclaim = rp.BlockDevice
	}
	return v1alpha1.Claim{
		UID: in.NewUID(),
		ClusterRef: v1alpha1.ClusterRef{
			Name: in.Cluster.Name, UID: string(in.Cluster.UID), ClusterID: in.ClusterID,
		},
		MountType:          mountType,
		Fingerprint:        id.Fingerprint(),
		ContentFingerprint: id.ContentFingerprint(),
		Wipe:               false, // eligible devices are blank; an own disk keeps its data
		ReclaimPolicy:      reclaim,
	}
}

// capNodes applies chunk.replicas: nodes that hold disks already come first, then by name.
func capNodes(in Input, devices []v1alpha1.BlockDevice, selectors selectorSet) func(string) (bool, string) {
	limit := int(in.Cluster.Spec.Chunk.Replicas)
	if limit == 0 {
		return in.NodeAllowed
	}
	var order []string
	add := func(node string) {
		if ok, _ := in.NodeAllowed(node); ok && !slices.Contains(order, node) {
			order = append(order, node)
		}
	}
	for i := range devices {
		if Owns(in.Cluster, devices[i].Spec.Claim) {
			add(devices[i].Spec.Node)
		}
	}
	for i := range devices {
		if len(selectors.of(&devices[i])) == 1 && notUsable(in, &devices[i]) == "" {
			add(devices[i].Spec.Node)
		}
	}
	if len(order) > limit {
		order = order[:limit]
	}
	return func(node string) (bool, string) {
		if ok, reason := in.NodeAllowed(node); !ok {
			return false, reason
		}
		if !slices.Contains(order, node) {
			return false, fmt.Sprintf("is beyond chunk.replicas = %d (storage nodes: %s)", limit, strings.Join(order, ", "))
		}
		return true, ""
	}
}

func join(reasons []v1alpha1.Reason) string {
	texts := make([]string, 0, len(reasons))
	for _, r := range reasons {
		texts = append(texts, r.Message)
	}
	return strings.Join(texts, "; ")
}

type compiled struct {
	mountType v1alpha1.MountType
	selector  labels.Selector
	exclude   []string
}

// selectorSet holds the device map's entries in a fixed order.
type selectorSet []compiled

func compile(m map[v1alpha1.MountType]v1alpha1.DeviceSelection) (selectorSet, error) {
	var set selectorSet
	for mountType, sel := range m {
		s, err := metav1.LabelSelectorAsSelector(&sel.Selector)
		if err != nil {
			return nil, fmt.Errorf("chunk.deviceMap.%s.selector: %w", mountType, err)
		}
		if s.Empty() {
			return nil, fmt.Errorf("chunk.deviceMap.%s.selector: is empty and would take every disk", mountType)
		}
		set = append(set, compiled{mountType, s, sel.Exclude})
	}
	slices.SortFunc(set, func(a, b compiled) int { return strings.Compare(string(a.mountType), string(b.mountType)) })
	return set, nil
}

// of lists the mount types that select a device.
func (set selectorSet) of(dev *v1alpha1.BlockDevice) []v1alpha1.MountType {
	var types []v1alpha1.MountType
	for _, c := range set {
		if c.selector.Matches(labels.Set(dev.Labels)) && !slices.Contains(c.exclude, dev.Name) {
			types = append(types, c.mountType)
		}
	}
	return types
}
