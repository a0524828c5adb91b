package daemon_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	attachv1 "github.com/iomesh/iomesh/attach/api/v1"
	"github.com/iomesh/iomesh/attach/attachtest"
	"github.com/iomesh/iomesh/attach/daemon"
	"github.com/iomesh/iomesh/attach/loop"
)

const (
	mib       = 1 << 20
	targetIQN = "iqn.2016-02.com.iomesh:volume:v1"
)

// needDevices skips for an ordinary user; for root a missing part of the machine is a failure that names it.
func needDevices(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting and loop devices need root")
	}
	if err := loop.Supported(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Fatalf("the kernel's FUSE is missing (CONFIG_FUSE_FS): %v", err)
	}
}

type rig struct {
	t     *testing.T
	store *attachtest.Store
	dir   string
	srv   daemon.Server
}

func newRig(t *testing.T) *rig {
	t.Helper()
	needDevices(t)
	r := &rig{t: t, store: attachtest.NewStore(t.TempDir()), dir: filepath.Join(t.TempDir(), "attach")}
	r.start()
	t.Cleanup(func() {
		if err := r.srv.Daemon.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
		r.nothingLeft()
	})
	return r
}

func (r *rig) start() {
	d, err := daemon.New(r.t.Context(), daemon.Options{Dir: r.dir, Dialer: r.store, Log: slog.New(slog.NewTextHandler(testWriter{r.t}, nil))})
	if err != nil {
		r.t.Fatal(err)
	}
	r.srv = daemon.Server{Daemon: d}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func request() *attachv1.AttachRequest {
	return &attachv1.AttachRequest{
		VolumeId: "v1", Iqn: targetIQN, Portals: []string{"127.0.0.1:3260"}, Initiator: "iqn.2016-02.com.iomesh:node:n1",
		ChapUser: "u", ChapSecret: "s3cret-s3cret",
	}
}

func (r *rig) attach(in *attachv1.AttachRequest) *attachv1.Attachment {
	r.t.Helper()
	a, err := r.srv.Attach(r.t.Context(), in)
	if err != nil {
		r.t.Fatalf("attach: %v", err)
	}
	return a
}

func (r *rig) detach() {
	r.t.Helper()
	if _, err := r.srv.Detach(r.t.Context(), &attachv1.DetachRequest{VolumeId: "v1"}); err != nil {
		r.t.Fatalf("detach: %v", err)
	}
}

func (r *rig) nothingLeft() {
	r.t.Helper()
	if entries, err := os.ReadDir(r.dir); err != nil || len(entries) != 0 {
		r.t.Errorf("state directory after detach: %v, %v; want it empty", entries, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.t.Fatal(err)
	}
	if strings.Contains(string(mounts), r.dir) {
		r.t.Errorf("a mount under %s is left", r.dir)
	}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		if b, _ := os.ReadFile(f); strings.HasPrefix(string(b), r.dir) {
			r.t.Errorf("%s still stands on %s", f, b)
		}
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is not installed (packages e2fsprogs, xfsprogs, util-linux, mount)", name)
	}
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func wantCode(t *testing.T, err error, want codes.Code) {
	t.Helper()
	if status.Code(err) != want {
		t.Fatalf("error %v, want code %v", err, want)
	}
}

func TestAFilesystemOnTheDeviceKeepsItsDataOverReattach(t *testing.T) {
	r := newRig(t)
	if err := r.store.Create(targetIQN, 256*mib); err != nil {
		t.Fatal(err)
	}
	a := r.attach(request())
	if a.State != attachv1.State_STATE_ATTACHED || a.SizeBytes != 256*mib || !strings.HasPrefix(a.Device, "/dev/loop") {
		t.Fatalf("attachment %v", a)
	}
	run(t, "mkfs.ext4", "-q", "-b", "4096", a.Device)
	dir := t.TempDir()
	run(t, "mount", a.Device, dir)
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	data := make([]byte, 40*mib)
	rand.Read(data)
	if err := os.WriteFile(filepath.Join(dir, "data"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := r.srv.Detach(t.Context(), &attachv1.DetachRequest{VolumeId: "v1"})
	wantCode(t, err, codes.FailedPrecondition)

	unmapped := r.store.Open(targetIQN).Unmaps.Load()
	if err := os.WriteFile(filepath.Join(dir, "gone"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "sync", "-f", dir)
	os.Remove(filepath.Join(dir, "gone"))
	run(t, "fstrim", dir)
	if got := r.store.Open(targetIQN).Unmaps.Load(); got <= unmapped {
		t.Errorf("fstrim made no UNMAP: %d before, %d after", unmapped, got)
	}
	if r.store.Open(targetIQN).Flushes.Load() == 0 {
		t.Error("writing and syncing a filesystem made no flush")
	}
	run(t, "umount", dir)
	r.detach()
	r.nothingLeft()

	a = r.attach(request())
	run(t, "e2fsck", "-fn", a.Device)
	run(t, "mount", a.Device, dir)
	got, err := os.ReadFile(filepath.Join(dir, "data"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("data after attaching again differs (%v)", err)
	}
	run(t, "umount", dir)
	r.detach()
}

func TestRequestsAreServedInParallel(t *testing.T) {
	r := newRig(t)
	if err := r.store.Create(targetIQN, 64*mib); err != nil {
		t.Fatal(err)
	}
	a := r.attach(request())
	lun := r.store.Open(targetIQN)
	release := lun.Hold()
	defer release()
	const workers = 32
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for i := range workers {
		wg.Go(func() {
			fd, err := unix.Open(a.Device, unix.O_RDWR|unix.O_DIRECT, 0)
			if err != nil {
				errs <- err
				return
			}
			defer unix.Close(fd)
			_, err = unix.Pwrite(fd, aligned(4096), int64(i)*mib)
			errs <- err
		})
	}
	deadline := time.Now().Add(20 * time.Second)
	for lun.InFlight() < workers {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d writes reached the LUN at once", lun.InFlight(), workers)
		}
	}
	release()
	wg.Wait()
	for range workers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	r.detach()
}

// aligned returns memory that O_DIRECT accepts.
func aligned(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	return b
}

func TestErrorsOfTheLUNReachTheUserOfTheDevice(t *testing.T) {
	r := newRig(t)
	if err := r.store.Create(targetIQN, 64*mib); err != nil {
		t.Fatal(err)
	}
	a := r.attach(request())
	fd, err := unix.Open(a.Device, unix.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, tc := range []struct {
		name string
		err  error
		want error
	}{
		{"an unknown error is EIO", errors.New("target failure"), syscall.EIO},
		{"no space is ENOSPC", fmt.Errorf("pool is full: %w", syscall.ENOSPC), syscall.ENOSPC},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r.store.Open(targetIQN).SetFail(func(string, int64, int64) error { return tc.err })
			defer r.store.Open(targetIQN).SetFail(nil)
			if _, err := unix.Pwrite(fd, aligned(4096), 0); !errors.Is(err, tc.want) {
				t.Errorf("write: %v, want %v", err, tc.want)
			}
		})
	}
	if _, err := unix.Pwrite(fd, aligned(4096), 0); err != nil {
		t.Errorf("write after the fault has gone: %v", err)
	}
	list, err := r.srv.List(t.Context(), &attachv1.ListRequest{})
	if err != nil || len(list.Attachments) != 1 || list.Attachments[0].IoErrors < 2 || !strings.Contains(list.Attachments[0].LastError, "pool is full") {
		t.Errorf("list %v, %v: want the errors counted and the last one told", list, err)
	}
}

func TestADeviceGrowsWhileItIsMounted(t *testing.T) {
	r := newRig(t)
	if err := r.store.Create(targetIQN, 320*mib); err != nil {
		t.Fatal(err)
	}
	a := r.attach(request())
	run(t, "mkfs.xfs", "-q", "-s", "size=4096", a.Device)
	dir := t.TempDir()
	run(t, "mount", a.Device, dir)
	defer func() { run(t, "umount", dir); r.detach() }()
	if err := r.store.Create(targetIQN, 512*mib); err != nil {
		t.Fatal(err)
	}
	got, err := r.srv.Resize(t.Context(), &attachv1.ResizeRequest{VolumeId: "v1"})
	if err != nil || got.SizeBytes != 512*mib {
		t.Fatalf("resize: %v, %v", got, err)
	}
	run(t, "xfs_growfs", dir)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Blocks*uint64(fs.Bsize) < 400*mib {
		t.Errorf("filesystem has %d bytes after growing (%v)", fs.Blocks*uint64(fs.Bsize), err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 380*mib), 0o600); err != nil {
		t.Errorf("write beyond the old size: %v", err)
	}
}

func TestAReadOnlyDeviceRefusesWrites(t *testing.T) {
	r := newRig(t)
	if err := r.store.Create(targetIQN, 64*mib); err != nil {
		t.Fatal(err)
	}
	in := request()
	in.ReadOnly = true
	a := r.attach(in)
	if fd, err := unix.Open(a.Device, unix.O_RDWR, 0); err == nil {
		_, err = unix.Pwrite(fd, make([]byte, 4096), 0)
		if err == nil {
			err = unix.Fsync(fd)
		}
		unix.Close(fd)
		if err == nil {
			t.Error("a read-only device accepted a write")
		}
	}
	if n := r.store.Open(targetIQN).Writes.Load(); n != 0 {
		t.Errorf("%d writes reached the LUN of a read-only device", n)
	}
}

func TestRepeatedAndConflictingCalls(t *testing.T) {
	r := newRig(t)
	if err := r.store.Create(targetIQN, 64*mib); err != nil {
		t.Fatal(err)
	}
	a := r.attach(request())
	if b := r.attach(request()); b.Device != a.Device {
		t.Errorf("the same volume got a second device %s beside %s", b.Device, a.Device)
	}
	other := request()
	other.ReadOnly = true
	_, err := r.srv.Attach(t.Context(), other)
	wantCode(t, err, codes.FailedPrecondition)
	// Other credentials are another grant: the old session must end, and not under the feet of its users.
	lun := r.store.Open(targetIQN)
	renewed := request()
	renewed.ChapSecret = "renewed-renewed"
	fd, err := unix.Open(a.Device, unix.O_RDONLY|unix.O_EXCL, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.srv.Attach(t.Context(), renewed)
	wantCode(t, err, codes.FailedPrecondition)
	unix.Close(fd)
	r.attach(renewed)
	if r.store.Open(targetIQN) == lun {
		t.Error("the session of the old grant is still used")
	}
	r.detach()
	r.detach()
	_, err = r.srv.Resize(t.Context(), &attachv1.ResizeRequest{VolumeId: "v1"})
	wantCode(t, err, codes.NotFound)
}

func TestAFailedLoginLeavesNothing(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		err  error
		want codes.Code
	}{
		{daemon.ErrCredentials, codes.Unauthenticated},
		{daemon.ErrNotFound, codes.NotFound},
		{daemon.ErrUnreachable, codes.Unavailable},
		{errors.New("something else"), codes.Internal},
	} {
		r.store.SetRefuse(func(daemon.Target) error { return fmt.Errorf("portal 127.0.0.1:3260: %w", tc.err) })
		_, err := r.srv.Attach(t.Context(), request())
		wantCode(t, err, tc.want)
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the error tells the secret: %v", err)
		}
		r.nothingLeft()
	}
}

func TestADeviceThatIsOnlyHeldOpenGoesWithItsLastUser(t *testing.T) {
	r := newRig(t)
	if err := r.store.Create(targetIQN, 64*mib); err != nil {
		t.Fatal(err)
	}
	a := r.attach(request())
	fd, err := unix.Open(a.Device, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = r.srv.Detach(ctx, &attachv1.DetachRequest{VolumeId: "v1"})
	wantCode(t, err, codes.FailedPrecondition)
	list, _ := r.srv.List(t.Context(), &attachv1.ListRequest{})
	if len(list.Attachments) != 1 || list.Attachments[0].State != attachv1.State_STATE_DETACHING {
		t.Errorf("list %v: want the volume as detaching", list)
	}
	unix.Close(fd)
	r.detach()
	r.nothingLeft()
}

func TestBadRequestsAreRefusedByName(t *testing.T) {
	srv := daemon.Server{}
	for name, change := range map[string]func(*attachv1.AttachRequest){
		"volume id":      func(r *attachv1.AttachRequest) { r.VolumeId = "../etc" },
		"target name":    func(r *attachv1.AttachRequest) { r.Iqn = "v1" },
		"initiator name": func(r *attachv1.AttachRequest) { r.Initiator = "iqn.x y" },
		"portals":        func(r *attachv1.AttachRequest) { r.Portals = nil },
		"portal":         func(r *attachv1.AttachRequest) { r.Portals = []string{"host"} },
		"CHAP":           func(r *attachv1.AttachRequest) { r.ChapUser = "" },
		"lun":            func(r *attachv1.AttachRequest) { r.Lun = 1 << 20 },
	} {
		t.Run(name, func(t *testing.T) {
			in := request()
			change(in)
			_, err := srv.Attach(t.Context(), in)
			wantCode(t, err, codes.InvalidArgument)
			if !strings.Contains(err.Error(), name) {
				t.Errorf("error %q does not name %q", err, name)
			}
		})
	}
}
