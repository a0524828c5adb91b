package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// packed runs pack over made-up binaries and returns the output directory.
func packed(t *testing.T) string {
	t.Helper()
	bin, out := t.TempDir(), t.TempDir()
	for _, name := range []string{"linux-amd64/kubectl-iomesh", "darwin-arm64/kubectl-iomesh", "windows-amd64/kubectl-iomesh.exe"} {
		path := filepath.Join(bin, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := pack(context.Background(), options{version: "v1.2.3", out: out, root: "..", binaries: bin}, io.Discard); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestManifestNamesEveryArchiveWithItsChecksum(t *testing.T) {
	out := packed(t)
	b, err := os.ReadFile(filepath.Join(out, "iomesh.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Spec struct {
			Version   string
			Platforms []struct {
				URI, SHA256, Bin string
				Files            []struct{ From string }
			}
		}
	}
	if err := yaml.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if m.Spec.Version != "v1.2.3" || len(m.Spec.Platforms) != 3 {
		t.Fatalf("manifest %s", b)
	}
	for _, p := range m.Spec.Platforms {
		data, err := os.ReadFile(filepath.Join(out, filepath.Base(p.URI)))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != p.SHA256 {
			t.Errorf("checksum of %s differs", p.URI)
		}
		have := contents(t, p.URI, data)
		if have[p.Bin] == "" || have["LICENSE"] == "" {
			t.Errorf("%s holds %v", p.URI, have)
		}
		for _, f := range p.Files {
			if have[f.From] == "" {
				t.Errorf("%s lacks %s", p.URI, f.From)
			}
		}
	}
}

// contents maps the names in an archive to their content.
func contents(t *testing.T, name string, data []byte) map[string]string {
	t.Helper()
	out := map[string]string{}
	if strings.HasSuffix(name, ".zip") {
		z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range z.File {
			r, err := f.Open()
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			out[f.Name] = string(b)
		}
		return out
	}
	gz, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(gz)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = string(b)
	}
}

func TestArchivesAreReproducible(t *testing.T) {
	sums := func() string {
		b, err := os.ReadFile(filepath.Join(packed(t), "SHA256SUMS"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	if a, b := sums(), sums(); a != b {
		t.Errorf("two runs over the same binaries:\n%s\n%s", a, b)
	}
}

func TestAVersionThatKrewRefusesIsRefusedHere(t *testing.T) {
	for _, v := range []string{"", "1.2.3", "v1.2", "v1.2.3 ", "latest"} {
		if err := pack(context.Background(), options{version: v, out: t.TempDir(), root: ".."}, io.Discard); err == nil {
			t.Errorf("version %q was taken", v)
		}
	}
}
