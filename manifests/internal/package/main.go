// Command package writes the Helm chart as an archive, with the version of a release, and the list of images that the chart and the operator use, for
// registries without internet. Equal input gives equal bytes.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/iomesh/iomesh/manifests"
)

func main() {
	version := flag.String("version", "", "version of the release: v1.2.3")
	out := flag.String("out", "dist", "directory to write to")
	flag.Parse()
	if err := pack(*version, *out); err != nil {
		fmt.Fprintln(os.Stderr, "package:", err)
		os.Exit(1)
	}
}

var versionRE = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)

func pack(version, out string) error {
	if !versionRE.MatchString(version) {
		return fmt.Errorf("--version %q: want a semantic version such as v1.2.3", version)
	}
	chart, err := archive(version)
	if err != nil {
		return err
	}
	images, err := images(version)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(out, "iomesh-"+strings.TrimPrefix(version, "v")+".tgz"), chart, 0o644),
		os.WriteFile(filepath.Join(out, "images.txt"), []byte(strings.Join(images, "\n")+"\n"), 0o644))
}

// archive is the chart, its versions replaced, in the layout of `helm package`.
func archive(version string) ([]byte, error) {
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	t := tar.NewWriter(gz)
	number := regexp.MustCompile(`(?m)^version:.*$`)
	app := regexp.MustCompile(`(?m)^appVersion:.*$`)
	err := fs.WalkDir(manifests.Chart(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(manifests.Chart(), path)
		if err != nil {
			return err
		}
		if path == "Chart.yaml" {
			data = number.ReplaceAll(data, []byte("version: "+strings.TrimPrefix(version, "v")))
			data = app.ReplaceAll(data, []byte("appVersion: "+version))
		}
		if err := t.WriteHeader(&tar.Header{Name: "iomesh/" + path, Mode: 0o644, Size: int64(len(data)), ModTime: time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC), Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		_, err = t.Write(data)
		return err
	})
	if err := errors.Join(err, t.Close(), gz.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// images are ours and those of the sidecars.
func images(version string) ([]string, error) {
	data, err := fs.ReadFile(manifests.Chart(), "values.yaml")
	if err != nil {
		return nil, err
	}
	var v struct {
		Image    struct{ Repository string }
		Sidecars map[string]any
	}
	if err := yaml.Unmarshal(data, &v); err != nil {
		return nil, err
	}
	out := []string{v.Image.Repository + ":" + version}
	for _, s := range v.Sidecars {
		if m, ok := s.(map[string]any); ok {
			if image, ok := m["image"].(string); ok {
				out = append(out, image)
			}
		}
	}
	slices.Sort(out)
	return out, nil
}
