package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
)

func TestTheChartOfAReleaseHasItsVersionAndIsTheSameTwice(t *testing.T) {
	a, err := archive("v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	b, err := archive("v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(a, b) {
		t.Error("two archives of one version differ")
	}
	z, err := gzip.NewReader(bytes.NewReader(a))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		seen[h.Name] = string(data)
	}
	if c := seen["iomesh/Chart.yaml"]; !strings.Contains(c, "version: 1.2.3\n") || !strings.Contains(c, "appVersion: v1.2.3") {
		t.Errorf("Chart.yaml:\n%s", c)
	}
	for _, name := range []string{"iomesh/values.yaml", "iomesh/templates/_helpers.tpl", "iomesh/monitoring/rules.yaml", "iomesh/crds/iomesh.com_iomeshclusters.yaml"} {
		if seen[name] == "" {
			t.Errorf("%s is missing", name)
		}
	}
}

func TestTheListOfImagesHasOursAndTheSidecars(t *testing.T) {
	list, err := images("v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(list, "\n")
	for _, want := range []string{"iomesh/iomesh:v1.2.3", "csi-provisioner:", "csi-attacher:", "snapshot-controller:"} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is not among\n%s", want, text)
		}
	}
}

func TestAVersionThatIsNoneIsRefused(t *testing.T) {
	for _, v := range []string{"", "1.2.3", "v1.2", "latest"} {
		if err := pack(v, t.TempDir()); err == nil {
			t.Errorf("%q is taken", v)
		}
	}
}
