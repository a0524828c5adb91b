// Package toolchain builds the programs of the test cluster (Kubernetes, etcd,
// containerd, the CSI sidecars, helm) from the modules pinned in
// tests/kube/tools into a cache outside the checkout:
//
//	${XDG_CACHE_HOME:-$HOME/.cache}/iomesh/kube/<hash>/
//	    bin/            the programs
//	    crd/            the snapshot kinds' definitions
//	    .complete       written last: the set is whole
//	    .conformance    e2e.test, ginkgo and agnhost are there too
//
// The hash covers everything that decides the result: the go.mod and go.sum
// files, the sources kept beside them, the Go version and the build flags.
package toolchain

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/tests/kube/command"
)

// KubernetesVersion is what the cluster runs; tools/go.mod pins it.
const KubernetesVersion = "v1.36.3"

// diskNeededBytes is what a build with empty caches takes: modules 1.7 GB,
// build cache 3.9 GB, programs 1.2 GB, and the linker's temporary files.
const diskNeededBytes = 8 << 30

// Options of Ensure.
type Options struct {
	// Source is the directory with the modules; empty: FindSource.
	Source string
	// Conformance asks for e2e.test, ginkgo and agnhost as well.
	Conformance bool
	// Progress receives a line now and then; nil for none.
	Progress func(format string, args ...any)
}

// Set is a complete set of programs.
type Set struct {
	Dir string // the cache entry
	Bin string // the programs
	CRD string // definitions of the snapshot kinds, one file each
}

// FindSource returns tests/kube/tools of the checkout that the current
// directory lies in.
func FindSource() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for d := dir; ; d = filepath.Dir(d) {
		tools := filepath.Join(d, "tests", "kube", "tools")
		if _, err := os.Stat(filepath.Join(tools, "go.mod")); err == nil {
			return tools, nil
		}
		if d == filepath.Dir(d) {
			return "", fmt.Errorf("no tests/kube/tools/go.mod in %s or above: run inside the checkout", dir)
		}
	}
}

// CacheDir returns the directory under which this project keeps what can be
// made again.
func CacheDir() (string, error) {
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w (set HOME or XDG_CACHE_HOME)", err)
	}
	return filepath.Join(dir, "iomesh"), nil
}

// Locate returns the set that belongs to source without building it, and
// whether it is complete.
func Locate(ctx context.Context, source string) (Set, bool, error) {
	if source == "" {
		var err error
		if source, err = FindSource(); err != nil {
			return Set{}, false, err
		}
	}
	cache, err := CacheDir()
	if err != nil {
		return Set{}, false, err
	}
	version, err := goIn(ctx, source, "env", "GOVERSION")
	if err != nil {
		return Set{}, false, err
	}
	hash, err := Hash(source, strings.TrimSpace(version))
	if err != nil {
		return Set{}, false, err
	}
	dir := filepath.Join(cache, "kube", hash)
	set := Set{Dir: dir, Bin: filepath.Join(dir, "bin"), CRD: filepath.Join(dir, "crd")}
	return set, exists(filepath.Join(dir, complete)), nil
}

const (
	complete    = ".complete"
	conformance = ".conformance"
)

// Ensure returns the set that belongs to the source, and builds first what is
// not there. Several processes may call it at once; one builds.
func Ensure(ctx context.Context, o Options) (Set, error) {
	if o.Progress == nil {
		o.Progress = func(string, ...any) {}
	}
	if o.Source == "" {
		var err error
		if o.Source, err = FindSource(); err != nil {
			return Set{}, err
		}
	}
	set, whole, err := Locate(ctx, o.Source)
	if err != nil {
		return Set{}, err
	}
	if whole && (!o.Conformance || exists(filepath.Join(set.Dir, conformance))) {
		return set, nil
	}
	if err := os.MkdirAll(set.Bin, 0o755); err != nil {
		return Set{}, fmt.Errorf("create tools cache: %w", err)
	}
	unlock, err := lock(ctx, filepath.Join(set.Dir, ".lock"), o.Progress)
	if err != nil {
		return Set{}, err
	}
	defer unlock()
	if !exists(filepath.Join(set.Dir, complete)) {
		if err := checkDisk(ctx, set.Dir, o.Source); err != nil {
			return Set{}, err
		}
		o.Progress("building the cluster's programs into %s: about 10 minutes on 2 cores with empty caches", set.Bin)
		if err := build(ctx, o, set, clusterSteps()); err != nil {
			return Set{}, err
		}
		if err := copyCRDs(ctx, o.Source, set.CRD); err != nil {
			return Set{}, err
		}
		if err := os.WriteFile(filepath.Join(set.Dir, complete), nil, 0o644); err != nil {
			return Set{}, fmt.Errorf("finish tools cache: %w", err)
		}
	}
	if o.Conformance && !exists(filepath.Join(set.Dir, conformance)) {
		o.Progress("building Kubernetes' own test suite: about 3 minutes more")
		if err := build(ctx, o, set, conformanceSteps()); err != nil {
			return Set{}, err
		}
		if err := os.WriteFile(filepath.Join(set.Dir, conformance), nil, 0o644); err != nil {
			return Set{}, fmt.Errorf("finish tools cache: %w", err)
		}
	}
	return set, nil
}

// Hash names the set built from source by the Go release goVersion.
func Hash(source, goVersion string) (string, error) {
	var files []string
	err := filepath.WalkDir(source, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, path)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("hash tools: %w", err)
	}
	sort.Strings(files)
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", goVersion)
	for _, s := range append(clusterSteps(), conformanceSteps()...) {
		fmt.Fprintf(h, "%s %s %s %s %s\n", s.dir, s.out, s.verb, ldflags, s.args)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			return "", fmt.Errorf("hash tools: %w", err)
		}
		rel, err := filepath.Rel(source, f)
		if err != nil {
			return "", fmt.Errorf("hash tools: %w", err)
		}
		fmt.Fprintf(h, "%s %d\n", rel, len(b))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

// checkDisk fails if one of the file systems that a build fills is too small.
func checkDisk(ctx context.Context, cache, source string) error {
	dirs := []string{cache}
	env, err := goIn(ctx, source, "env", "GOCACHE", "GOMODCACHE")
	if err != nil {
		return err
	}
	for _, d := range append(dirs, strings.Fields(env)...) {
		free, err := FreeBytes(d)
		if err != nil {
			return err
		}
		if free < diskNeededBytes {
			return fmt.Errorf("%s has %d MiB free, building the cluster's programs needs %d MiB: free some, or set XDG_CACHE_HOME, GOCACHE and GOMODCACHE elsewhere", d, free>>20, diskNeededBytes>>20)
		}
	}
	return nil
}

// FreeBytes returns what is free on the file system of dir, or of the nearest
// directory above it that exists.
func FreeBytes(dir string) (uint64, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return st.Bavail * uint64(st.Bsize), nil
		}
		if !errors.Is(err, unix.ENOENT) || dir == "/" {
			return 0, fmt.Errorf("find free space of %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

// lock takes an exclusive lock on a file, for as long as another build runs.
func lock(ctx context.Context, path string, progress func(string, ...any)) (func(), error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock tools cache: %w", err)
	}
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for said := false; ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("lock tools cache: %w", err)
		}
		if !said {
			progress("another process builds the same programs; waiting for it")
			said = true
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, context.Cause(ctx)
		case <-t.C:
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// goIn runs the go command in a module's directory, without cgo.
func goIn(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "PWD="+dir)
	return command.Collect(cmd, cmd.Run)
}
