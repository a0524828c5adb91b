package desired

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

// AttachName is the name of the DaemonSet of the userspace attacher.
const AttachName = "iomesh-attach"

// WantsAttach reports whether the cluster uses the userspace attacher.
func WantsAttach(in Input) bool { return in.attachMode() != v1alpha1.AttachISCSI }

// Attach is the DaemonSet of the userspace attacher. Its pods carry the block devices of running pods, so an update
// (OnDelete) never restarts them; they take the new image when their node has been drained and the pod deleted.
func Attach(in Input) *appsv1.DaemonSet {
	var policy *v1alpha1.PodPolicy
	if in.Cluster.Spec.Node != nil {
		policy = in.Cluster.Spec.Node.PodPolicy
	}
	spec := in.basePod(policy, true)
	spec.Volumes = []corev1.Volume{
		hostPath("dev", "/dev", corev1.HostPathDirectory),
		hostPath("run", HostRunDir, corev1.HostPathDirectoryOrCreate),
	}
	spec.Containers = []corev1.Container{in.container("attach", []string{"iomesh-attach", "--socket=" + AttachSocket}, corev1.Container{
		Env:             []corev1.EnvVar{fieldEnv("NODE_NAME", "spec.nodeName")},
		VolumeMounts:    []corev1.VolumeMount{mount("dev", "/dev"), propagated("run", HostRunDir, corev1.MountPropagationBidirectional)},
		Resources:       requests("20m", "64Mi"),
		SecurityContext: privileged(),
	})}
	return &appsv1.DaemonSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"},
		ObjectMeta: in.meta(AttachName, ComponentAttach),
		Spec: appsv1.DaemonSetSpec{
			Selector:       &metav1.LabelSelector{MatchLabels: Selector(in.Cluster.Name, ComponentAttach)},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: Labels(in.Cluster.Name, ComponentAttach), Annotations: map[string]string{
					v1alpha1.AnnotationPrivileged: "attach: serves a FUSE file below " + HostRunDir + " and makes a loop device of it for other pods",
				}},
				Spec: spec,
			},
		},
	}
}
