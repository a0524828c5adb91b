// Command snapshotcrds copies the definitions of the snapshot API from the external-snapshotter module into the chart, with a
// label that tells them from those that someone else installed. Run by go generate ./manifests.
package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	// Keeps the module, whose config directory is copied, in go.mod.
	_ "github.com/kubernetes-csi/external-snapshotter/client/v8/apis/volumesnapshot/v1"
)

const module = "github.com/kubernetes-csi/external-snapshotter/client/v8"

// Names are the files of the definitions. Group snapshots are not among them: the driver has none.
var names = []string{
	"snapshot.storage.k8s.io_volumesnapshotclasses.yaml",
	"snapshot.storage.k8s.io_volumesnapshotcontents.yaml",
	"snapshot.storage.k8s.io_volumesnapshots.yaml",
}

func main() {
	if err := run("chart/crds"); err != nil {
		fmt.Fprintln(os.Stderr, "snapshotcrds:", err)
		os.Exit(1)
	}
}

func run(out string) error {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return fmt.Errorf("find module %s: %w", module, err)
	}
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(string(bytes.TrimSpace(dir)), "config", "crd", name))
		if err != nil {
			return err
		}
		labelled, err := label(data)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if err := os.WriteFile(filepath.Join(out, name), labelled, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// label adds the label to the definition's metadata.
func label(data []byte) ([]byte, error) {
	const metadata = "\nmetadata:\n"
	if bytes.Count(data, []byte(metadata)) != 1 {
		return nil, fmt.Errorf("want one metadata block at the top level")
	}
	labelled := bytes.Replace(data, []byte(metadata), []byte(metadata+"  labels:\n    iomesh.com/installed-by: chart\n"), 1)
	return append([]byte("# From the module "+module+", unchanged but for the label. Apache License 2.0.\n"), labelled...), nil
}
