package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// The references under which the cluster and Kubernetes' own tests look for
// images that are not ours.
const (
	PauseRef   = "registry.k8s.io/pause:3.10.2"
	BusyboxRef = "registry.k8s.io/e2e-test-images/busybox:1.37.0-1"
	AgnhostRef = "registry.k8s.io/e2e-test-images/agnhost:2.63.0"
)

// busyboxAliases are images of Kubernetes' own tests that only run a shell.
var busyboxAliases = []string{
	"registry.k8s.io/e2e-test-images/nginx:1.15-4",
	"registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0",
}

// programs are ours, in the order of the documentation. All go into one image.
var programs = []string{"storaged", "iomesh-agent", "iomesh-csi", "iomesh-attach", "iomesh-operator"}

// sidecars run beside the CSI driver.
var sidecars = []string{"csi-provisioner", "csi-attacher", "csi-resizer", "csi-snapshotter", "snapshot-controller"}

// Builder makes the images.
type Builder struct {
	// Debs is the directory in which downloaded packages are kept.
	Debs string
}

// IOMesh makes iomesh/iomesh:TAG: our programs out of the directory bin, as
// far as they are there, and the tools they call. A program named in required
// that is not there is an error.
func (b Builder) IOMesh(ctx context.Context, bin, tag string, required []string) (Image, error) {
	for _, r := range required {
		if !slices.Contains(programs, r) {
			return Image{}, fmt.Errorf("required program %q is none of ours: %v", r, programs)
		}
	}
	l := NewLayer()
	found := 0
	for _, p := range programs {
		err := l.File("usr/local/bin/"+p, 0o755, filepath.Join(bin, p))
		if errors.Is(err, fs.ErrNotExist) && !slices.Contains(required, p) {
			continue
		}
		if err != nil {
			return Image{}, err
		}
		found++
	}
	if found == 0 {
		return Image{}, fmt.Errorf("%s holds none of %v: build them first", bin, programs)
	}
	if err := l.Debian(ctx, Packages(), b.Debs); err != nil {
		return Image{}, err
	}
	return Image{Ref: "iomesh/iomesh:" + tag, Layer: l}, nil
}

// Sidecars makes iomesh/csi-sidecars:TAG out of the directory bin of the test
// cluster's tools. The programs are static; nothing else is in it.
func (b Builder) Sidecars(bin, tag string) (Image, error) {
	l := &Layer{entries: map[string]entry{}}
	for _, p := range sidecars {
		if err := l.File("usr/local/bin/"+p, 0o755, filepath.Join(bin, p)); err != nil {
			return Image{}, err
		}
	}
	l.Dir("tmp", 0o1777)
	return Image{Ref: "iomesh/csi-sidecars:" + tag, Layer: l}, nil
}

// Pause makes the image of every pod's first container.
func (b Builder) Pause(bin string) (Image, error) {
	l := &Layer{entries: map[string]entry{}}
	if err := l.File("pause", 0o755, filepath.Join(bin, "pause")); err != nil {
		return Image{}, err
	}
	return Image{Ref: PauseRef, Entrypoint: []string{"/pause"}, Layer: l}, nil
}

// Busybox makes the test image with a shell and the tools of our own image. Its dd is that of the GNU coreutils: Kubernetes' specs for a block
// device that several nodes use read and write with its nocache flags.
func (b Builder) Busybox(ctx context.Context) (Image, error) {
	l := NewLayer()
	if err := l.packages(ctx, []string{"coreutils"}, neverLinked, func(p string) bool { return p == "usr/bin/dd" }, b.Debs); err != nil {
		return Image{}, err
	}
	if err := l.Debian(ctx, Packages(), b.Debs); err != nil {
		return Image{}, err
	}
	return Image{Ref: BusyboxRef, Aliases: busyboxAliases, Layer: l}, nil
}

// Agnhost makes the image that Kubernetes' own tests use most.
func (b Builder) Agnhost(ctx context.Context, bin string) (Image, error) {
	img, err := b.Busybox(ctx)
	if err != nil {
		return Image{}, err
	}
	img.Ref, img.Aliases, img.Entrypoint = AgnhostRef, nil, []string{"/agnhost"}
	if err := img.Layer.File("agnhost", 0o755, filepath.Join(bin, "agnhost")); err != nil {
		return Image{}, err
	}
	img.Layer.Symlink("agnhost-2", "agnhost")
	return img, nil
}

// baseFormat is raised when the same packages come to give another image.
const baseFormat = 2

// EnsureBase writes the images every cluster needs, pause and busybox, below
// dir unless they are there, and returns their files. bin is the directory of
// the cluster's tools, which dir must belong to.
func (b Builder) EnsureBase(ctx context.Context, bin, dir string) ([]string, error) {
	pause, err := ensure(dir, "pause.tar", func() (Image, error) { return b.Pause(bin) })
	if err != nil {
		return nil, err
	}
	busybox, err := ensure(dir, "busybox.tar", func() (Image, error) { return b.Busybox(ctx) })
	if err != nil {
		return nil, err
	}
	return []string{pause, busybox}, nil
}

// EnsureAgnhost does the same for the image of Kubernetes' own tests.
func (b Builder) EnsureAgnhost(ctx context.Context, bin, dir string) (string, error) {
	return ensure(dir, "agnhost.tar", func() (Image, error) { return b.Agnhost(ctx, bin) })
}

// ensure returns the file of that name below dir, which make's image is written to unless one of the same format and packages is there.
func ensure(dir, name string, make func() (Image, error)) (string, error) {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", baseFormat, packagesText))
	file := filepath.Join(dir, hex.EncodeToString(sum[:4]), name)
	if _, err := os.Stat(file); err == nil {
		return file, nil
	}
	img, err := make()
	if err != nil {
		return "", err
	}
	return file, img.Write(file)
}
