package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"text/template"
	"time"
)

//go:embed iomesh.yaml
var manifestTemplate string

//go:embed kubectl_complete-iomesh
var completion []byte

const completionName = "kubectl_complete-iomesh"

// platform is one archive.
type platform struct {
	OS, Arch, Archive, SHA256, Binary, Completion string
}

// platforms that are released.
var platforms = []platform{
	{OS: "linux", Arch: "amd64"}, {OS: "linux", Arch: "arm64"}, {OS: "darwin", Arch: "amd64"}, {OS: "darwin", Arch: "arm64"},
	{OS: "windows", Arch: "amd64"}, {OS: "windows", Arch: "arm64"},
}

type options struct {
	version, baseURL, out, root, binaries string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var o options
	flag.StringVar(&o.version, "version", "", "version of the release: v1.2.3")
	flag.StringVar(&o.baseURL, "base-url", "", "where the archives will be (default: the GitHub release of the version)")
	flag.StringVar(&o.out, "out", "dist", "directory for archives, checksums and manifest")
	flag.StringVar(&o.root, "root", ".", "directory of the checkout")
	flag.StringVar(&o.binaries, "binaries", "", "directory with binaries that are built already")
	flag.Parse()
	if err := pack(ctx, o, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "krew:", err)
		os.Exit(1)
	}
}

var versionRE = regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`)

// pack makes everything in o.out.
func pack(ctx context.Context, o options, progress io.Writer) error {
	if !versionRE.MatchString(o.version) {
		return fmt.Errorf("--version %q: krew wants a semantic version such as v1.2.3", o.version)
	}
	if o.baseURL == "" {
		o.baseURL = "https://github.com/iomesh/iomesh/releases/download/" + o.version
	}
	licence, err := os.ReadFile(filepath.Join(o.root, "LICENSE"))
	if err != nil {
		return fmt.Errorf("read the licence: %w (is --root the checkout?)", err)
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return err
	}
	var done []platform
	var sums strings.Builder
	for _, p := range platforms {
		p.Binary = "kubectl-iomesh"
		p.Archive = fmt.Sprintf("kubectl-iomesh-%s-%s-%s.tar.gz", o.version, p.OS, p.Arch)
		if p.OS == "windows" {
			p.Binary += ".exe"
			p.Archive = strings.TrimSuffix(p.Archive, ".tar.gz") + ".zip"
		} else {
			p.Completion = completionName
		}
		binary, err := build(ctx, o, p)
		if errors.Is(err, fs.ErrNotExist) && o.binaries != "" {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s/%s: %w", p.OS, p.Arch, err)
		}
		files := []file{{p.Binary, binary, 0o755}, {"LICENSE", licence, 0o644}}
		if p.Completion != "" {
			files = append(files, file{completionName, completion, 0o755})
		}
		data, err := archive(p.OS == "windows", files)
		if err != nil {
			return fmt.Errorf("pack %s: %w", p.Archive, err)
		}
		if err := os.WriteFile(filepath.Join(o.out, p.Archive), data, 0o644); err != nil {
			return err
		}
		sum := sha256.Sum256(data)
		p.SHA256 = hex.EncodeToString(sum[:])
		fmt.Fprintf(&sums, "%s  %s\n", p.SHA256, p.Archive)
		fmt.Fprintf(progress, "%s  %.1f MB\n", p.Archive, float64(len(data))/1e6)
		done = append(done, p)
	}
	if len(done) == 0 {
		return fmt.Errorf("no binaries in %s: want <os>-<arch>/kubectl-iomesh", o.binaries)
	}
	manifest, err := manifest(o, done)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(filepath.Join(o.out, "SHA256SUMS"), []byte(sums.String()), 0o644), os.WriteFile(filepath.Join(o.out, "iomesh.yaml"), manifest, 0o644))
}

// build returns the plugin's binary for a platform.
func build(ctx context.Context, o options, p platform) ([]byte, error) {
	if o.binaries != "" {
		return os.ReadFile(filepath.Join(o.binaries, p.OS+"-"+p.Arch, p.Binary))
	}
	dir, err := os.MkdirTemp("", "kubectl-iomesh-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	out := filepath.Join(dir, p.Binary)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags", "-s -w -buildid= -X github.com/iomesh/iomesh/internal/version.version="+o.version, "-o", out, "./kubectl-iomesh")
	cmd.Dir = o.root
	cmd.Env = append(cmd.Environ(), "GOOS="+p.OS, "GOARCH="+p.Arch, "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w\n%s", err, text)
	}
	return os.ReadFile(out)
}

type file struct {
	name string
	data []byte
	mode fs.FileMode
}

// epoch is the time of every file: archives must not tell when they were made.
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

func archive(asZip bool, files []file) ([]byte, error) {
	var b bytes.Buffer
	if asZip {
		z := zip.NewWriter(&b)
		for _, f := range files {
			h := &zip.FileHeader{Name: f.name, Method: zip.Deflate, Modified: epoch}
			h.SetMode(f.mode)
			w, err := z.CreateHeader(h)
			if err != nil {
				return nil, err
			}
			if _, err := w.Write(f.data); err != nil {
				return nil, err
			}
		}
		if err := z.Close(); err != nil {
			return nil, err
		}
		return b.Bytes(), nil
	}
	gz := gzip.NewWriter(&b)
	t := tar.NewWriter(gz)
	for _, f := range files {
		if err := t.WriteHeader(&tar.Header{Name: f.name, Mode: int64(f.mode), Size: int64(len(f.data)), ModTime: epoch, Format: tar.FormatUSTAR}); err != nil {
			return nil, err
		}
		if _, err := t.Write(f.data); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(t.Close(), gz.Close()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func manifest(o options, done []platform) ([]byte, error) {
	t, err := template.New("iomesh.yaml").Parse(manifestTemplate)
	if err != nil {
		return nil, fmt.Errorf("krew manifest: %w", err)
	}
	var b bytes.Buffer
	err = t.Execute(&b, map[string]any{"Version": o.version, "BaseURL": o.baseURL, "Platforms": done})
	if err != nil {
		return nil, fmt.Errorf("krew manifest: %w", err)
	}
	return b.Bytes(), nil
}
