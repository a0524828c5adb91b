package desired

import (
	"path"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

// NodeName is the name of the DaemonSet on every node that uses volumes.
const NodeName = "iomesh-node"

// DriverName is the CSI driver's name.
const DriverName = "com.iomesh.csi-driver"

// Node is the DaemonSet with agent, CSI node and login redirector.
func Node(in Input) *appsv1.DaemonSet {
	ns := in.Cluster.Spec.Node
	if ns == nil {
		ns = &v1alpha1.NodeSpec{}
	}
	kubelet := ns.KubeletRootDir
	if kubelet == "" {
		kubelet = "/var/lib/kubelet"
	}
	spec := in.basePod(ns.PodPolicy, true)
	spec.ServiceAccountName = v1alpha1.ServiceAccountNode
	spec.AutomountServiceAccountToken = ptr(true)
	spec.HostPID = true
	spec.Volumes = []corev1.Volume{
		secretVolume("tls", v1alpha1.SecretNodeTLS),
		hostPath("dev", "/dev", corev1.HostPathDirectory),
		hostPath("sys", "/sys", corev1.HostPathDirectory),
		hostPath("udev", "/run/udev", corev1.HostPathDirectoryOrCreate),
		hostPath("host-proc", "/proc", corev1.HostPathDirectory),
		hostPath("state", HostStateDir, corev1.HostPathDirectoryOrCreate),
		hostPath("run", HostRunDir, corev1.HostPathDirectoryOrCreate),
		hostPath("kubelet", kubelet, corev1.HostPathDirectory),
	}
	env := []corev1.EnvVar{fieldEnv("NODE_NAME", "spec.nodeName"), fieldEnv("POD_NAMESPACE", "metadata.namespace"), fieldEnv("POD_NAME", "metadata.name")}

	agent := in.container("agent", []string{
		"iomesh-agent",
		"--node=$(NODE_NAME)",
		"--namespace=$(POD_NAMESPACE)",
		"--cluster=" + in.Cluster.Name,
		"--state-dir=" + HostStateDir,
		"--disk-dir=" + DiskDir,
		"--socket=" + AgentSocket,
	}, corev1.Container{
		Env:   env,
		Ports: ports("agent-metrics", PortAgentMetrics),
		VolumeMounts: []corev1.VolumeMount{
			mount("dev", "/dev"), mount("sys", "/sys"), readOnly("udev", "/run/udev"),
			mount("state", HostStateDir), propagated("run", HostRunDir, corev1.MountPropagationHostToContainer),
		},
		Resources:       requests("10m", "48Mi"),
		SecurityContext: privileged(),
	})
	csi := in.container("csi", []string{
		"iomesh-csi", "node",
		"--node=$(NODE_NAME)",
		"--driver-name=" + DriverName,
		"--meta=" + in.MetaEndpoints(),
		"--tls-dir=" + tlsDir,
		"--attach=" + string(in.attachMode()),
		"--attach-socket=" + AttachSocket,
		"--kubelet-dir=" + kubelet,
		"--health-listen=:" + strconv.Itoa(PortCSINodeHealth),
	}, corev1.Container{
		Env:   env,
		Ports: ports("csi-health", PortCSINodeHealth),
		VolumeMounts: []corev1.VolumeMount{
			readOnly("tls", tlsDir), mount("dev", "/dev"), mount("sys", "/sys"), readOnly("host-proc", "/host/proc"),
			propagated("kubelet", kubelet, corev1.MountPropagationBidirectional),
			propagated("run", HostRunDir, corev1.MountPropagationHostToContainer),
		},
		LivenessProbe: &corev1.Probe{
			ProbeHandler:        corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(PortCSINodeHealth)}},
			InitialDelaySeconds: 10, PeriodSeconds: 20, TimeoutSeconds: 5, FailureThreshold: 5,
		},
		Resources:       resourcesOr(ns.Resources, requests("10m", "48Mi")),
		SecurityContext: privileged(),
	})
	redirect := in.container("redirect", []string{
		"storaged", "redirect",
		"--meta=" + in.MetaEndpoints(),
		"--listen=127.0.0.1:" + strconv.Itoa(PortRedirectISCSI),
		"--metrics-listen=:" + strconv.Itoa(PortRedirectMetrics),
		"--tls-dir=" + tlsDir,
	}, corev1.Container{
		Ports:           ports("redirect-metric", PortRedirectMetrics),
		VolumeMounts:    []corev1.VolumeMount{readOnly("tls", tlsDir)},
		Resources:       requests("5m", "32Mi"),
		SecurityContext: unprivileged(),
	})
	if r := in.Cluster.Spec.Redirector; r != nil {
		redirect.Resources = resourcesOr(r.Resources, redirect.Resources)
	}
	spec.Containers = []corev1.Container{agent, csi, redirect}

	return &appsv1.DaemonSet{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "DaemonSet"},
		ObjectMeta: in.meta(NodeName, ComponentNode),
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: Selector(in.Cluster.Name, ComponentNode)},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type:          appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: ptr(intstr.FromInt32(1))},
			},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: Labels(in.Cluster.Name, ComponentNode), Annotations: in.scrape(map[string]string{
					v1alpha1.AnnotationPrivileged: "agent: reads and wipes the node's disks in /dev; csi: mounts volumes for other pods below " +
						path.Clean(kubelet) + " and runs the host's iscsiadm; redirect is not privileged",
				}, PortAgentMetrics)},
				Spec: spec,
			},
		},
	}
}
