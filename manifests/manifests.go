// Package manifests holds the Helm chart and the CRDs of IOMesh, embedded, so that the plugin installs and the operator
// updates exactly what it was built with.
//
// The CRDs in chart/crds are generated from api/v1alpha1 (go generate ./api/v1alpha1); those of the snapshot API come from the
// external-snapshotter module (go generate ./manifests).
package manifests

import (
	"embed"
	"fmt"
	"io/fs"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

//go:generate go run ./internal/snapshotcrds
//go:generate go run ./internal/monitoring

// all: includes files whose names begin with "_" or ".", such as templates/_helpers.tpl and .helmignore.
//
//go:embed all:chart
var files embed.FS

// Chart is the chart's directory: Chart.yaml is at its root.
func Chart() fs.FS {
	sub, err := fs.Sub(files, "chart")
	if err != nil {
		panic(fmt.Sprintf("manifests: the embedded chart: %v", err)) // the path is a constant and was embedded
	}
	return sub
}

// CRDs are the definitions of our own kinds, as the operator applies them.
func CRDs() ([]*apiextensionsv1.CustomResourceDefinition, error) {
	entries, err := fs.ReadDir(files, "chart/crds")
	if err != nil {
		return nil, fmt.Errorf("embedded CRDs: %w", err)
	}
	var out []*apiextensionsv1.CustomResourceDefinition
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "iomesh.com_") {
			continue
		}
		data, err := fs.ReadFile(files, "chart/crds/"+e.Name())
		if err != nil {
			return nil, fmt.Errorf("embedded CRD %s: %w", e.Name(), err)
		}
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.UnmarshalStrict(data, crd); err != nil {
			return nil, fmt.Errorf("embedded CRD %s: %w", e.Name(), err)
		}
		out = append(out, crd)
	}
	return out, nil
}
