package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// Image is what Write puts into a file.
type Image struct {
	Ref        string   // "iomesh/iomesh:dev"
	Aliases    []string // further references to the same image
	Entrypoint []string
	Layer      *Layer
}

// searchPath is PATH in every image.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

type configFile struct {
	Architecture string       `json:"architecture"`
	OS           string       `json:"os"`
	Created      string       `json:"created"`
	Config       runConfig    `json:"config"`
	RootFS       rootFS       `json:"rootfs"`
	History      []historyRow `json:"history"`
}

type runConfig struct {
	Entrypoint []string `json:"Entrypoint"`
	Env        []string `json:"Env"`
}

type rootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type historyRow struct {
	Created string `json:"created"`
}

type manifestRow struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Write writes the image as a docker-archive to the file out, which appears
// only when it is complete.
func (img Image) Write(out string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("write image %s: %w", img.Ref, err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	layer, err := os.CreateTemp(filepath.Dir(out), ".layer-*")
	if err != nil {
		return err
	}
	defer os.Remove(layer.Name())
	defer layer.Close()
	sum := sha256.New()
	size, err := img.Layer.WriteTo(io.MultiWriter(layer, sum))
	if err != nil {
		return err
	}
	if _, err := layer.Seek(0, io.SeekStart); err != nil {
		return err
	}
	const born = "1970-01-01T00:00:00Z"
	config, err := json.Marshal(configFile{
		Architecture: runtime.GOARCH, OS: "linux", Created: born,
		Config:  runConfig{Entrypoint: img.Entrypoint, Env: []string{searchPath}},
		RootFS:  rootFS{Type: "layers", DiffIDs: []string{"sha256:" + hex.EncodeToString(sum.Sum(nil))}},
		History: []historyRow{{Created: born}},
	})
	if err != nil {
		return err
	}
	configSum := sha256.Sum256(config)
	configName := hex.EncodeToString(configSum[:]) + ".json"
	manifest, err := json.Marshal([]manifestRow{{Config: configName, RepoTags: append([]string{img.Ref}, img.Aliases...), Layers: []string{"layer.tar"}}})
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(out), ".image-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	tw := tar.NewWriter(tmp)
	for _, m := range []struct {
		name string
		size int64
		r    io.Reader
	}{
		{"manifest.json", int64(len(manifest)), bytes.NewReader(manifest)},
		{configName, int64(len(config)), bytes.NewReader(config)},
		{"layer.tar", size, layer},
	} {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: 0o644, Size: m.size, ModTime: epoch, Format: tar.FormatPAX}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, m.r); err != nil {
			return err
		}
	}
	if err := tw.Close(); err != nil {
		return err
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), out)
}
