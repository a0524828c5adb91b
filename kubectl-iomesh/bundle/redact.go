package bundle

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// redacted stands for a value that is not taken along.
const redacted = "REDACTED"

// cleanMeta removes what is long, and annotations of tools: they may repeat whole objects.
func cleanMeta(m *metav1.ObjectMeta) {
	m.ManagedFields = nil
	for k := range m.Annotations {
		if !strings.Contains(k, "iomesh.com/") && !strings.HasPrefix(k, "meta.helm.sh/") {
			delete(m.Annotations, k)
		}
	}
}

// cleanPod takes the values of environment variables out; their names stay.
func cleanPod(p *corev1.Pod) {
	cleanMeta(&p.ObjectMeta)
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for j := range list[i].Env {
				if list[i].Env[j].Value != "" {
					list[i].Env[j].Value = redacted
				}
			}
		}
	}
	for i := range p.Spec.EphemeralContainers {
		for j := range p.Spec.EphemeralContainers[i].Env {
			p.Spec.EphemeralContainers[i].Env[j].Value = redacted
		}
	}
}

// secretish finds values of words that name secrets, in logs and answers: password=…, "chapSecret":"…", Bearer ….
var secretish = regexp.MustCompile(`(?i)("?[a-z_.-]*(?:secret|password|passwd|token|chap_?key|private_?key)[a-z_.-]*"?\s*[=:]\s*)("(?:[^"\\]|\\.)*"|[^\s,}&]+)|(bearer\s+)[a-z0-9._~+/-]+=*`)

// cleanText removes the values of what names itself a secret. Daemons do not log secrets; this is for what others make them repeat.
func cleanText(data []byte) []byte {
	return secretish.ReplaceAll(data, []byte("${1}${3}"+redacted))
}
