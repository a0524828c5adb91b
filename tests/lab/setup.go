package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/iomesh/iomesh/tests/kube/cluster"
)

// Setup says what the cluster shall have.
type Setup struct {
	Nodes        int
	DisksPerNode int
	DiskBytes    int64
	// Tag of the images in build/images.
	Tag string
}

// Up starts the cluster with disks and images; what is there already is kept.
func (l *Lab) Up(ctx context.Context, s Setup) error {
	if lacks := l.Cluster.Preflight(ctx); len(lacks) > 0 {
		return fmt.Errorf("this machine lacks:\n  %s", strings.Join(lacks, "\n  "))
	}
	l.Say("starting %d Kubernetes nodes (real kubelets with containerd)", s.Nodes)
	if err := l.Cluster.Up(ctx, s.Nodes); err != nil {
		return fmt.Errorf("start the cluster: %w", err)
	}
	for _, tar := range []string{"iomesh.tar", "csi-sidecars.tar"} {
		l.Say("importing image %s", tar)
		if err := l.Cluster.ImportImage(ctx, filepath.Join(l.Root, "build", "images", tar)); err != nil {
			return fmt.Errorf("import %s: %w", tar, err)
		}
	}
	nodes, err := l.Cluster.Nodes()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := l.PrepareNode(ctx, n, s); err != nil {
			return err
		}
	}
	return nil
}

// PrepareNode gives a node its disks and the verifier.
func (l *Lab) PrepareNode(ctx context.Context, node string, s Setup) error {
	have, err := l.Cluster.Disks(node)
	if err != nil {
		return err
	}
	if missing := s.DisksPerNode - len(have); missing > 0 {
		if _, err := l.Cluster.MakeDisks(ctx, node, missing, s.DiskBytes); err != nil {
			return fmt.Errorf("disks of %s: %w", node, err)
		}
	}
	dst := filepath.Join(l.nodeRoot(node), "opt", "iomesh")
	if err := os.MkdirAll(dst, 0o755); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(l.Root, "build", "verifier"))
	if err != nil {
		return fmt.Errorf("the verifier is not built: %w", err)
	}
	return os.WriteFile(filepath.Join(dst, "verifier"), b, 0o755)
}

func (l *Lab) nodeRoot(node string) string {
	return filepath.Join(filepath.Dir(filepath.Dir(l.Cluster.Kubeconfig())), "nodes", node, "root")
}

// Values writes the values file of the installation and returns its path.
func (l *Lab) Values(tag string) (string, error) {
	nodes, err := l.Cluster.Nodes()
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "image: {repository: iomesh/iomesh, tag: %s}\nsidecars: {image: \"iomesh/csi-sidecars:%s\"}\niomesh:\n  diskDeploymentMode: allFlash\n  devices:\n    loopBackingFiles:\n", tag, tag)
	for _, n := range nodes {
		disks, err := l.Cluster.Disks(n)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "      %s: [%s]\n", n, strings.Join(files(disks), ", "))
	}
	b.WriteString("snapshot: {controller: true}\n")
	path := filepath.Join(l.Root, "build", "values.yaml")
	return path, os.WriteFile(path, []byte(b.String()), 0o644)
}

func files(disks []cluster.Disk) []string {
	var out []string
	for _, d := range disks {
		out = append(out, d.File)
	}
	return out
}

// NotRunning says which pods of IOMesh are not ready, "" if all are.
func (l *Lab) NotRunning(ctx context.Context) string {
	out, err := l.Kubectl(ctx, "-n", Namespace, "get", "pods", "--no-headers", "-o",
		`custom-columns=N:.metadata.name,P:.status.phase,R:.status.conditions[?(@.type=="Ready")].status`)
	if err != nil {
		return err.Error()
	}
	var bad []string
	n := 0
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		if n++; f[1] != "Running" || f[2] != "True" {
			bad = append(bad, f[0]+" "+f[1])
		}
	}
	if n == 0 {
		return "no pods yet"
	}
	return strings.Join(bad, ", ")
}

// Healthy says what is wrong with the volumes, "" if all replicas of all volumes are in sync.
func (l *Lab) Healthy(ctx context.Context) string {
	st, err := l.Status(ctx)
	switch {
	case err != nil:
		return err.Error()
	case st.Health != "OK" && st.Health != "Healthy" || st.Volumes.Degraded+st.Volumes.Unavailable > 0 || st.Resync.LeftBytes > 0:
		return fmt.Sprintf("%s: %s; %d degraded, %d unavailable, %d bytes to copy", st.Health, st.Reason, st.Volumes.Degraded, st.Volumes.Unavailable, st.Resync.LeftBytes)
	}
	for _, n := range st.Nodes {
		if n.State != "Online" {
			return "node " + n.Name + " is " + n.State
		}
	}
	return ""
}

// StatusWait is how long a fault may take to be over.
const StatusWait = 3 * time.Minute
