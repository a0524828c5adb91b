package image

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/iomesh/iomesh/tests/kube/command"
)

//go:embed packages.txt
var packagesText string

// Packages returns the Debian packages whose programs IOMesh calls.
func Packages() []string { return strings.Fields(packagesText) }

// deb is a package file as apt-get(8) would fetch it.
type deb struct {
	pkg  string // package name
	file string // file name in the cache
	size int64
}

// neverLinked are families of packages that programs of ours depend on only
// for scripts we leave out; they would be most of the download.
var neverLinked = []string{"python3", "libpython3", "libicu", "perl", "media-types"}

// resolve asks apt for packages and everything they depend on, as on a
// machine where nothing is installed, except families of packages.
func resolve(ctx context.Context, packages, except []string) ([]deb, error) {
	argv := append([]string{"apt-get", "--print-uris", "-y", "--no-install-recommends",
		"-o", "Dir::State::status=/dev/null", "install"}, packages...)
	out, err := command.Output(ctx, argv...)
	if err != nil {
		return nil, fmt.Errorf("resolve Debian packages: %w (try apt-get update)", err)
	}
	debs, err := parseURIs(out)
	if err != nil {
		return nil, fmt.Errorf("resolve Debian packages: %w", err)
	}
	return slices.DeleteFunc(debs, func(d deb) bool {
		return slices.ContainsFunc(except, func(p string) bool { return strings.HasPrefix(d.pkg, p) })
	}), nil
}

// parseURIs reads lines of the form: 'URI' FILE SIZE [HASH].
func parseURIs(out string) ([]deb, error) {
	var debs []deb
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "'") {
			continue // what apt says to people
		}
		f := strings.Fields(line)
		if len(f) < 3 {
			return nil, fmt.Errorf("apt-get said %q, want 'URI' FILE SIZE", line)
		}
		size, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("apt-get said %q, want 'URI' FILE SIZE: %w", line, err)
		}
		name, _, ok := strings.Cut(f[1], "_")
		if !ok || strings.Contains(f[1], "/") {
			return nil, fmt.Errorf("apt-get named a package file %q, want NAME_VERSION_ARCH.deb", f[1])
		}
		debs = append(debs, deb{pkg: name, file: f[1], size: size})
	}
	slices.SortFunc(debs, func(a, b deb) int { return strings.Compare(a.file, b.file) })
	return debs, nil
}

// fetch downloads what the cache directory lacks; apt checks the hashes.
func fetch(ctx context.Context, debs []deb, cache string) error {
	var missing []string
	for _, d := range debs {
		info, err := os.Stat(filepath.Join(cache, d.file))
		if err != nil || info.Size() != d.size {
			missing = append(missing, d.pkg)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"download", "-q"}, missing...)...)
	cmd.Dir = cache
	if _, err := command.Collect(cmd, cmd.Run); err != nil {
		return fmt.Errorf("download Debian packages: %w", err)
	}
	return nil
}

// unpack adds a package file's content to a layer.
func unpack(ctx context.Context, file string, l *Layer) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", file)
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("unpack %s: %w", file, err)
	}
	readErr := l.tarball(pipe)
	waitErr := cmd.Wait()
	if readErr != nil {
		return fmt.Errorf("unpack %s: %w", file, readErr)
	}
	if waitErr != nil {
		return fmt.Errorf("unpack %s: %w", file, waitErr)
	}
	return nil
}

// leftOut are files of the named packages that the images do without:
// scripts that need python or perl, and a scrubber that needs 30 MB of ICU.
var leftOut = []string{
	"usr/sbin/xfs_scrub", "usr/sbin/xfs_scrub_all", "usr/sbin/e2scrub", "usr/sbin/e2scrub_all",
}

// keptTrees are the parts of packages that the images take.
var keptTrees = []string{"usr/bin/", "usr/sbin/", "etc/mke2fs.conf", "etc/fuse.conf"}

// Debian adds the programs of packages and the libraries they link to.
// Package files are kept in the directory cache.
func (l *Layer) Debian(ctx context.Context, packages []string, cache string) error {
	kept := func(p string) bool {
		return slices.ContainsFunc(keptTrees, func(t string) bool { return strings.HasPrefix(p, t) }) && !slices.Contains(leftOut, p)
	}
	if err := l.packages(ctx, packages, neverLinked, kept, cache); err != nil {
		return err
	}
	return l.applets(ctx)
}

// packages adds the files of packages that kept takes, and the libraries they
// link to.
func (l *Layer) packages(ctx context.Context, packages, except []string, kept func(path string) bool, cache string) error {
	debs, err := resolve(ctx, packages, except)
	if err != nil {
		return err
	}
	if err := fetch(ctx, debs, cache); err != nil {
		return err
	}
	programs, libraries := &Layer{entries: map[string]entry{}}, &Layer{entries: map[string]entry{}}
	for _, d := range debs {
		to := libraries
		if slices.Contains(packages, d.pkg) {
			to = programs
		}
		if err := unpack(ctx, filepath.Join(cache, d.file), to); err != nil {
			return err
		}
	}
	for p, e := range programs.entries {
		if strings.HasPrefix(p, "usr/lib") {
			libraries.entries[p] = e
		}
	}
	for p, e := range programs.entries {
		if kept(p) {
			l.put(p, e)
		}
	}
	return l.link(libraries)
}

// applets adds busybox's programs under the names that nothing else has.
func (l *Layer) applets(ctx context.Context) error {
	box, ok := l.entries["usr/bin/busybox"]
	if !ok {
		return nil
	}
	dir, err := os.MkdirTemp("", "iomesh-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "busybox")
	if err := os.WriteFile(file, box.data, 0o700); err != nil {
		return err
	}
	names, err := command.Output(ctx, file, "--list")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(names) {
		if !l.Has("usr/bin/"+name) && !l.Has("usr/sbin/"+name) {
			l.Symlink("usr/bin/"+name, "busybox")
		}
	}
	return nil
}
