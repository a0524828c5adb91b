package desired

import (
	"crypto/sha256"
	"encoding/hex"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CleanPodName is the name of the pod that erases a node's directories at the end of a cluster.
func CleanPodName(node string) string {
	sum := sha256.Sum256([]byte(node))
	return "iomesh-clean-" + hex.EncodeToString(sum[:6])
}

// CleanPod erases what the daemons left in a node's host directories. keepMeta leaves the metadata members' state.
func CleanPod(in Input, node string, keepMeta bool) *corev1.Pod {
	spec := in.basePod(nil, true)
	spec.NodeName = node
	spec.RestartPolicy = corev1.RestartPolicyOnFailure
	spec.HostNetwork = false
	spec.TerminationGracePeriodSeconds = ptr(int64(2))
	// The parents are mounted, so that the directories themselves can go.
	spec.Volumes = []corev1.Volume{hostPath("lib", "/var/lib", corev1.HostPathDirectory), hostPath("run", "/run", corev1.HostPathDirectory)}
	command := []string{"iomesh-operator", "clean-host", "--lib=/host/lib/iomesh", "--run=/host/run/iomesh", "--cluster=" + in.Cluster.Name}
	if keepMeta {
		command = append(command, "--keep-meta")
	}
	spec.Containers = []corev1.Container{in.container("clean", command, corev1.Container{
		VolumeMounts:    []corev1.VolumeMount{mount("lib", "/host/lib"), mount("run", "/host/run")},
		Resources:       requests("5m", "16Mi"),
		SecurityContext: unprivileged(),
	})}
	pod := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}, ObjectMeta: in.meta(CleanPodName(node), ComponentClean), Spec: spec}
	pod.Annotations = map[string]string{"iomesh.com/node": node}
	return pod
}
