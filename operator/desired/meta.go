package desired

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/placement"
)

// MetaName is the name of the StatefulSet.
const MetaName = "iomesh-meta"

// Annotations on a member's PersistentVolume: where the member is, for good.
const (
	annotationAddress = "iomesh.com/address"
	annotationOrdinal = "iomesh.com/ordinal"
	annotationNode    = "iomesh.com/node"
	annotationMove    = "iomesh.com/move" // a mark below
)

// Marks on a member's PersistentVolume while the member changes its node.
const (
	MarkLeaving = "leaving"
	MarkJoining = "joining"
)

// MemberLeaves and MemberJoins read the mark.
func MemberLeaves(pv *corev1.PersistentVolume) bool {
	return pv.Annotations[annotationMove] == MarkLeaving
}

// MemberJoins reports whether the member has been given this place and does not vote yet.
func MemberJoins(pv *corev1.PersistentVolume) bool {
	return pv.Annotations[annotationMove] == MarkJoining
}

// MarkMember sets the mark, or removes it ("").
func MarkMember(pv *corev1.PersistentVolume, mark string) {
	if mark == "" {
		delete(pv.Annotations, annotationMove)
		return
	}
	if pv.Annotations == nil {
		pv.Annotations = map[string]string{}
	}
	pv.Annotations[annotationMove] = mark
}

// MetaVolumeElsewhere is the volume of a member that is given another node. Its directory has a name of its own: what an earlier member of the same
// ordinal may have left on that node is a former self, with which it would not start.
func MetaVolumeElsewhere(in Input, m placement.Member, uid string) *corev1.PersistentVolume {
	in.Meta = []placement.Member{m}
	pv := MetaVolumes(in)[0]
	pv.Spec.HostPath.Path += "-" + uid[:min(8, len(uid))]
	MarkMember(pv, MarkJoining)
	return pv
}

// metaStateClass is the storage class of the members' volumes. No such class exists: it keeps other claims off them.
const metaStateClass = "iomesh-meta-state"

const stateVolume = "state"

// labelNamespace tells the volumes of clusters of the same name apart: PersistentVolumes have no namespace.
const labelNamespace = "iomesh.com/namespace"

// VolumeSelector selects the members' PersistentVolumes.
func VolumeSelector(namespace, cluster string) map[string]string {
	return map[string]string{labelManagedBy: ManagedBy, v1alpha1.LabelCluster: cluster, labelNamespace: namespace}
}

// MetaHostPath is where a member keeps its state on its node.
func MetaHostPath(cluster string, ordinal int32) string {
	return path.Join(HostStateDir, "meta", cluster, strconv.Itoa(int(ordinal)))
}

// MetaVolumeName is the name of a member's PersistentVolume.
func MetaVolumeName(namespace, cluster string, ordinal int32) string {
	return fmt.Sprintf("iomesh-meta-%s-%s-%d", namespace, cluster, ordinal)
}

// MetaClaimName is the name of the claim that the StatefulSet makes for a member.
func MetaClaimName(ordinal int32) string {
	return fmt.Sprintf("%s-%s-%d", stateVolume, MetaName, ordinal)
}

// MetaPodName is the name of a member, in Kubernetes and in etcd.
func MetaPodName(ordinal int32) string { return fmt.Sprintf("%s-%d", MetaName, ordinal) }

// MetaVolumes are the members' PersistentVolumes, claimed in advance and bound to their nodes. They are created and never
// applied again: Kubernetes completes claimRef, which is one atomic field.
func MetaVolumes(in Input) []*corev1.PersistentVolume {
	var pvs []*corev1.PersistentVolume
	for _, m := range in.Meta {
		create := corev1.HostPathDirectoryOrCreate
		pv := &corev1.PersistentVolume{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"},
			ObjectMeta: metav1.ObjectMeta{
				Name: MetaVolumeName(in.Cluster.Namespace, in.Cluster.Name, m.Ordinal), Labels: Labels(in.Cluster.Name, ComponentMeta),
				Annotations: map[string]string{annotationAddress: m.Address, annotationOrdinal: strconv.Itoa(int(m.Ordinal)), annotationNode: m.Node},
			},
			Spec: corev1.PersistentVolumeSpec{
				Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("8Gi")},
				AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
				StorageClassName:              metaStateClass,
				VolumeMode:                    ptr(corev1.PersistentVolumeFilesystem),
				ClaimRef: &corev1.ObjectReference{
					APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: in.Cluster.Namespace, Name: MetaClaimName(m.Ordinal),
				},
				PersistentVolumeSource: corev1.PersistentVolumeSource{
					HostPath: &corev1.HostPathVolumeSource{Path: MetaHostPath(in.Cluster.Name, m.Ordinal), Type: &create},
				},
				NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{onHost(m.Hostname)}}},
			},
		}
		pv.Labels[labelNamespace] = in.Cluster.Namespace
		pvs = append(pvs, pv)
	}
	return pvs
}

// MetaMember reads a member back from its PersistentVolume.
func MetaMember(pv *corev1.PersistentVolume) (placement.Member, error) {
	fail := func(what string) (placement.Member, error) {
		return placement.Member{}, fmt.Errorf("persistent volume %s: %s: it is not one that the operator made", pv.Name, what)
	}
	ordinal, err := strconv.ParseInt(pv.Annotations[annotationOrdinal], 10, 32)
	if err != nil || ordinal < 0 {
		return fail("annotation " + annotationOrdinal + " is no ordinal")
	}
	if pv.Annotations[annotationAddress] == "" {
		return fail("annotation " + annotationAddress + " is missing")
	}
	if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil || len(pv.Spec.NodeAffinity.Required.NodeSelectorTerms) != 1 {
		return fail("no node affinity")
	}
	e := pv.Spec.NodeAffinity.Required.NodeSelectorTerms[0].MatchExpressions
	if len(e) != 1 || len(e[0].Values) != 1 {
		return fail("no node affinity")
	}
	if pv.Annotations[annotationNode] == "" {
		return fail("annotation " + annotationNode + " is missing")
	}
	return placement.Member{
		Ordinal: int32(ordinal), Node: pv.Annotations[annotationNode], Hostname: e[0].Values[0], Address: pv.Annotations[annotationAddress],
	}, nil
}

// MemberList names every member and its address, as each member is started with: name=address. Ports are the default ones.
func MemberList(members []placement.Member) string {
	parts := make([]string, 0, len(members))
	for _, m := range members {
		parts = append(parts, MetaPodName(m.Ordinal)+"="+m.Address)
	}
	return strings.Join(parts, ",")
}

// Meta is the StatefulSet of the metadata members.
func Meta(in Input) *appsv1.StatefulSet {
	const dataDir = HostStateDir + "/meta"
	spec := in.basePod(in.Cluster.Spec.Meta.PodPolicy, false)
	spec.Volumes = []corev1.Volume{secretVolume("tls", v1alpha1.SecretMetaTLS)}
	spec.Affinity = withAntiAffinity(spec.Affinity, Selector(in.Cluster.Name, ComponentMeta))
	spec.Containers = []corev1.Container{in.container("meta", []string{
		"storaged", "meta",
		"--name=$(POD_NAME)",
		"--data-dir=" + dataDir,
		"--tls-dir=" + tlsDir,
		"--members=" + MemberList(in.Meta),
		"--cluster-id=" + in.ClusterID,
	}, corev1.Container{
		Env:            []corev1.EnvVar{fieldEnv("POD_NAME", "metadata.name")},
		Ports:          ports("grpc", PortMetaGRPC, "etcd-client", PortMetaEtcdClient, "etcd-peer", PortMetaEtcdPeer, "metrics", PortMetaMetrics),
		VolumeMounts:   []corev1.VolumeMount{mount(stateVolume, dataDir), readOnly("tls", tlsDir)},
		Resources:      resourcesOr(in.Cluster.Spec.Meta.Resources, requests("50m", "128Mi")),
		ReadinessProbe: tcpReady("", PortMetaGRPC),
		// The state directory belongs to root on the host, and the process is root without any capability.
		SecurityContext: unprivileged(),
	})}
	labels := Labels(in.Cluster.Name, ComponentMeta)
	return &appsv1.StatefulSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "StatefulSet"},
		ObjectMeta: in.meta(MetaName, ComponentMeta),
		Spec: appsv1.StatefulSetSpec{
			ServiceName: MetaName,
			Replicas:    ptr(int32(len(in.Meta))),
			// All at once: a member is ready only when a majority runs.
			PodManagementPolicy: appsv1.ParallelPodManagement,
			UpdateStrategy:      metaUpdate(in),
			Selector:            &metav1.LabelSelector{MatchLabels: Selector(in.Cluster.Name, ComponentMeta)},
			PersistentVolumeClaimRetentionPolicy: &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
				WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
				WhenScaled:  appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
			},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: in.scrape(nil, PortMetaMetrics)},
				Spec:       spec,
			},
			VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolumeClaim"},
				ObjectMeta: metav1.ObjectMeta{Name: stateVolume, Labels: labels},
				Spec: corev1.PersistentVolumeClaimSpec{
					AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					StorageClassName: ptr(metaStateClass),
					VolumeMode:       ptr(corev1.PersistentVolumeFilesystem),
					Resources:        corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("8Gi")}},
				},
			}},
		},
	}
}

// metaUpdate lets the members be updated one after the other, the highest first; none while the update is paused or a member joins.
func metaUpdate(in Input) appsv1.StatefulSetUpdateStrategy {
	if in.MetaJoining {
		return appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
	}
	held := int32(0)
	if in.Cluster.Annotations[v1alpha1.AnnotationPauseUpdate] != "" {
		held = int32(len(in.Meta))
	}
	return appsv1.StatefulSetUpdateStrategy{
		Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: &held},
	}
}

// onNode matches one node by name, as a DaemonSet's pods do.
func onNode(name string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{
		{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{name}},
	}}
}

// onHost matches one node by its host name label: volumes are matched by labels only, not by the node's name.
func onHost(hostname string) corev1.NodeSelectorTerm {
	return corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{
		{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{hostname}},
	}}
}

func withAntiAffinity(a *corev1.Affinity, selector map[string]string) *corev1.Affinity {
	if a == nil {
		a = &corev1.Affinity{}
	}
	a.PodAntiAffinity = &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		LabelSelector: &metav1.LabelSelector{MatchLabels: selector}, TopologyKey: corev1.LabelHostname,
	}}}
	return a
}

// ports makes named container ports from name, number pairs. In the host network they reserve the port on the node.
func ports(pairs ...any) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for i := 0; i+1 < len(pairs); i += 2 {
		out = append(out, corev1.ContainerPort{
			Name: pairs[i].(string), ContainerPort: int32(pairs[i+1].(int)), HostPort: int32(pairs[i+1].(int)), Protocol: corev1.ProtocolTCP,
		})
	}
	return out
}
