package desired

import (
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/placement"
)

// priorityClass of all daemons: the volumes of other pods depend on them.
const priorityClass = "system-node-critical"

func ptr[T any](v T) *T { return &v }

// unprivileged is the security context of a container that touches nothing of its host but its mounted directories.
func unprivileged() *corev1.SecurityContext {
	return &corev1.SecurityContext{
		AllowPrivilegeEscalation: ptr(false),
		ReadOnlyRootFilesystem:   ptr(true),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
}

// privileged is the security context of a container that opens host devices or mounts; the pod says why.
func privileged() *corev1.SecurityContext {
	return &corev1.SecurityContext{Privileged: ptr(true)}
}

func hostPath(name, path string, kind corev1.HostPathType) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: path, Type: &kind}}}
}

func secretVolume(name, secret string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret, DefaultMode: ptr(int32(0o400))}}}
}

func mount(name, path string) corev1.VolumeMount {
	return corev1.VolumeMount{Name: name, MountPath: path}
}

func readOnly(name, path string) corev1.VolumeMount {
	return corev1.VolumeMount{Name: name, MountPath: path, ReadOnly: true}
}

func propagated(name, path string, mode corev1.MountPropagationMode) corev1.VolumeMount {
	return corev1.VolumeMount{Name: name, MountPath: path, MountPropagation: &mode}
}

func fieldEnv(name, path string) corev1.EnvVar {
	return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: path}}}
}

func requests(cpu, memory string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
	}}
}

// resourcesOr returns the wished resources, or the default.
func resourcesOr(wished *corev1.ResourceRequirements, fallback corev1.ResourceRequirements) corev1.ResourceRequirements {
	if wished != nil {
		return *wished
	}
	return fallback
}

// tcpReady is ready while the port accepts connections; host "" is the pod's own address.
func tcpReady(host string, port int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Host: host, Port: intstr.FromInt32(port)}},
		PeriodSeconds: 2, TimeoutSeconds: 2, FailureThreshold: 3, SuccessThreshold: 1,
	}
}

// basePod is what all pods of the cluster share.
func (in Input) basePod(policy *v1alpha1.PodPolicy, allTaints bool) corev1.PodSpec {
	spec := corev1.PodSpec{
		HostNetwork:                   true,
		DNSPolicy:                     corev1.DNSDefault, // nothing needs the cluster's DNS
		PriorityClassName:             priorityClass,
		ServiceAccountName:            v1alpha1.ServiceAccountDaemon,
		AutomountServiceAccountToken:  ptr(false),
		EnableServiceLinks:            ptr(false),
		TerminationGracePeriodSeconds: ptr(int64(30)),
		ImagePullSecrets:              in.Cluster.Spec.ImagePullSecrets,
		Tolerations:                   placement.Tolerated(),
	}
	if policy != nil {
		spec.NodeSelector = maps.Clone(policy.NodeSelector)
		spec.Tolerations = append(spec.Tolerations, policy.Tolerations...)
		if policy.Affinity != nil && policy.Affinity.NodeAffinity != nil {
			spec.Affinity = &corev1.Affinity{NodeAffinity: policy.Affinity.NodeAffinity.DeepCopy()}
		}
	}
	if allTaints && (policy == nil || policy.Tolerations == nil) {
		spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
	}
	return spec
}

// container fills in what all containers share.
func (in Input) container(name string, command []string, c corev1.Container) corev1.Container {
	c.Name, c.Image, c.ImagePullPolicy, c.Command = name, in.Image, in.pullPolicy(), command
	c.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	return c
}

// scrape adds the annotations that a Prometheus with discovery by annotation looks for.
func (in Input) scrape(annotations map[string]string, port int) map[string]string {
	if m := in.Cluster.Spec.Monitoring; m == nil || !m.ScrapeAnnotations {
		return annotations
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations["prometheus.io/scrape"] = "true"
	annotations["prometheus.io/port"] = strconv.Itoa(port)
	annotations["prometheus.io/path"] = "/metrics"
	return annotations
}
