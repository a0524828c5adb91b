package cluster

import (
	"bytes"
	_ "embed"
	"fmt"
	"text/template"

	"github.com/iomesh/iomesh/tests/image"
)

var (
	//go:embed config/cni.conflist
	cniText string
	//go:embed config/containerd.toml
	containerdText string
	//go:embed config/kubelet.yaml
	kubeletText string
	//go:embed config/proxy.yaml
	proxyText string
)

// writeConfig writes the configuration of the node's daemons onto its disk.
func (n *node) writeConfig() error {
	values := map[string]string{"Name": n.Name, "PodCIDR": n.podCIDR(), "Pause": image.PauseRef}
	for file, text := range map[string]string{
		"etc/cni/net.d/10-bridge.conflist": cniText,
		"etc/containerd/iomesh.toml":       containerdText,
		"etc/kubernetes/kubelet.yaml":      kubeletText,
		"etc/kubernetes/proxy.yaml":        proxyText,
	} {
		t, err := template.New(file).Option("missingkey=error").Parse(text)
		if err != nil {
			return fmt.Errorf("configure node %s: %w", n.Name, err)
		}
		var b bytes.Buffer
		if err := t.Execute(&b, values); err != nil {
			return fmt.Errorf("configure node %s: %w", n.Name, err)
		}
		if err := n.writeFile(file, b.String(), 0o644); err != nil {
			return fmt.Errorf("configure node %s: %w", n.Name, err)
		}
	}
	return nil
}
