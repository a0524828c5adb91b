package inventory

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/eligibility"
	"github.com/iomesh/iomesh/agent/keeper"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// object is a device in the form of its BlockDevice, without claim and status.
func object(d *blockdev.Device, name, namespace, node string) *v1alpha1.BlockDevice {
	id := d.Identity()
	labels := map[string]string{
		v1alpha1.LabelNode:       LabelValue(node),
		v1alpha1.LabelDevicePath: LabelValue(strings.TrimPrefix(d.Path, "/dev/")),
		v1alpha1.LabelDeviceType: LabelValue(string(id.DeviceType)),
		v1alpha1.LabelDriverType: driveLabel(id.DriveType),
	}
	if v := LabelValue(id.Serial); v != "" {
		labels[v1alpha1.LabelSerial] = v
	}
	if v := LabelValue(id.Vendor); v != "" {
		labels[v1alpha1.LabelVendor] = v
	}
	return &v1alpha1.BlockDevice{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "BlockDevice"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels},
		Spec:       v1alpha1.BlockDeviceSpec{Node: node, Path: d.Path, Identity: id},
	}
}

// driveLabel is the original's word for a medium.
func driveLabel(t v1alpha1.DriveType) string {
	switch t {
	case v1alpha1.DriveNVMe:
		return "NVME"
	case v1alpha1.DriveHDD, v1alpha1.DriveSSD:
		return string(t)
	}
	return string(v1alpha1.DriveUnknown)
}

// LabelValue makes a valid label value of any text: what is not allowed becomes "-", and it has at most 63 characters.
func LabelValue(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '-'
	}, strings.TrimSpace(s))
	if len(s) > 63 {
		s = s[:63]
	}
	return strings.Trim(s, "-_.")
}

// reasonsMax bounds the reasons of an object, as its definition does.
const reasonsMax = 32

// status says of a device what the scan, the judgement and the keeper found.
func status(id *v1alpha1.Identity, reasons []v1alpha1.Reason, res keeper.Result, wish *v1alpha1.Claim, present bool, now metav1.Time) v1alpha1.BlockDeviceStatus {
	st := v1alpha1.BlockDeviceStatus{
		State: v1alpha1.DeviceActive, ClaimState: res.ClaimState, Claim: res.Claim, Health: res.Health,
		DiskID: res.DiskID, Usage: res.Usage, Message: res.Message, LastSeen: &now,
	}
	if st.Health == "" {
		st.Health = v1alpha1.DeviceHealthUnknown
	}
	if !present {
		st.State = v1alpha1.DeviceInactive
		st.Reasons = []v1alpha1.Reason{{Code: "Gone", Message: "the device is not there any more"}}
		return st
	}
	claim := res.Claim
	if claim == nil {
		claim = wish
	}
	if claim != nil {
		st.Reasons = append(st.Reasons, v1alpha1.Reason{Code: v1alpha1.ReasonClaimed, Message: fmt.Sprintf("belongs to cluster %s as %s", claim.ClusterRef.Name, claim.MountType)})
	}
	for _, r := range reasons {
		ownDisk := r.Code == v1alpha1.ReasonSuperblock && claim != nil && id.Superblock != nil && id.Superblock.ClusterID == claim.ClusterRef.ClusterID
		if !ownDisk && len(st.Reasons) < reasonsMax {
			st.Reasons = append(st.Reasons, r)
		}
	}
	st.Eligible = len(st.Reasons) == 0
	return st
}

// policy is what the cluster's wish means for the devices of a node.
func policy(cluster *v1alpha1.IOMeshCluster, node string, base eligibility.Policy) *eligibility.Policy {
	p := base
	if cluster != nil && cluster.Spec.Devices != nil {
		p.LoopBackingFiles = cluster.Spec.Devices.LoopBackingFiles[node]
	}
	return &p
}
