package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

// ChunkPodName is the name of a storage node's chunk pod. Node names longer than a pod name allows end in a hash.
func ChunkPodName(node string) string {
	const prefix, longest = "iomesh-chunk-", 63
	name := prefix + node
	if len(name) <= longest {
		return name
	}
	sum := sha256.Sum256([]byte(node))
	return name[:longest-9] + "-" + hex.EncodeToString(sum[:4])
}

// ChunkPod is the data server of a storage node. Its label iomesh.com/revision is the hash of its specification.
func ChunkPod(in Input, c Chunk) (*corev1.Pod, error) {
	spec := in.basePod(in.Cluster.Spec.Chunk.PodPolicy, false)
	// The node is given; what the policy says about nodes was considered when its disks were claimed.
	spec.NodeSelector = nil
	spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{onNode(c.Node)}},
	}}
	spec.RestartPolicy = corev1.RestartPolicyAlways
	spec.Volumes = []corev1.Volume{
		secretVolume("tls", v1alpha1.SecretChunkTLS),
		hostPath("dev", "/dev", corev1.HostPathDirectory),
		hostPath("state", HostStateDir, corev1.HostPathDirectoryOrCreate),
		hostPath("run", HostRunDir, corev1.HostPathDirectoryOrCreate),
	}
	command := []string{
		"storaged", "chunk",
		"--node=" + c.Node,
		"--disk-dir=" + DiskDir,
		"--meta=" + in.MetaEndpoints(),
		"--advertise=" + c.Address,
		"--tls-dir=" + tlsDir,
	}
	if c.Zone != "" {
		command = append(command, "--zone="+c.Zone)
	}
	spec.Containers = []corev1.Container{in.container("chunk", command, corev1.Container{
		Ports: ports("control", PortChunkControl, "data", PortChunkData, "iscsi", PortChunkISCSI, "metrics", PortChunkMetrics),
		VolumeMounts: []corev1.VolumeMount{
			readOnly("tls", tlsDir), mount("dev", "/dev"), mount("state", HostStateDir), mount("run", HostRunDir),
		},
		Resources:       resourcesOr(in.Cluster.Spec.Chunk.Resources, requests("100m", "256Mi")),
		ReadinessProbe:  tcpReady(c.Address, PortChunkControl),
		SecurityContext: privileged(),
	})}

	revision, err := hashSpec(spec)
	if err != nil {
		return nil, fmt.Errorf("chunk pod of node %s: %w", c.Node, err)
	}
	pod := &corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: in.meta(ChunkPodName(c.Node), ComponentChunk), Spec: spec,
	}
	pod.Labels[v1alpha1.LabelNode] = labelValue(c.Node)
	pod.Labels[v1alpha1.LabelRevision] = revision
	pod.Annotations = in.scrape(map[string]string{
		v1alpha1.AnnotationPrivileged: "chunk: opens the node's disks in /dev and asks the kernel not to wait for its own write-back (PR_SET_IO_FLUSHER)",
		v1alpha1.LabelNode:            c.Node,
	}, PortChunkMetrics)
	return pod, nil
}

// ChunkNode is the node that a chunk pod is for.
func ChunkNode(pod *corev1.Pod) string { return pod.Annotations[v1alpha1.LabelNode] }

// hashSpec is stable over restarts and operators of the same version: a new one means that the pod must be made anew.
func hashSpec(spec corev1.PodSpec) (string, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:5]), nil
}

// labelValue shortens a node name to what a label may hold; the annotation has it whole.
func labelValue(s string) string {
	if len(s) <= 63 {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return s[:54] + "-" + hex.EncodeToString(sum[:4])
}
