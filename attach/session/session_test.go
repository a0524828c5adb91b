package session_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	attachv1 "github.com/iomesh/iomesh/attach/api/v1"
	"github.com/iomesh/iomesh/attach/daemon"
	"github.com/iomesh/iomesh/attach/loop"
	"github.com/iomesh/iomesh/attach/session"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/target/memvolume"
)

const (
	mib       = 1 << 20
	initiator = "iqn.2016-02.com.iomesh:node:n1"
)

// rig is a real target over memory, and an attacher with real devices.
type rig struct {
	t       *testing.T
	dir     *memvolume.Directory
	vol     *memvolume.Volume
	id      block.VolumeID
	iqn     string
	srv     *target.Server
	address string
	attach  daemon.Server
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting and loop devices need root")
	}
	if err := loop.Supported(); err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: memvolume.NewDirectory(), id: block.NewVolumeID()}
	r.vol = memvolume.New(r.id, 128*mib)
	r.iqn = r.dir.Serve(r.id, r.vol, target.Grant{Generation: 1, CHAP: &target.CHAP{User: "u", Secret: "secret-secret"}})
	srv, err := target.New(target.Options{Directory: r.dir})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Close() })
	r.srv, r.address = srv, l.Addr().String()
	log := slog.New(slog.DiscardHandler)
	d, err := daemon.New(t.Context(), daemon.Options{Dir: filepath.Join(t.TempDir(), "attach"), Dialer: session.Dialer{Log: log}, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	r.attach = daemon.Server{Daemon: d}
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return r
}

func (r *rig) request() *attachv1.AttachRequest {
	return &attachv1.AttachRequest{
		VolumeId: r.id.String(), Iqn: r.iqn, Lun: 1, Portals: []string{"127.0.0.1:1", r.address}, Initiator: initiator, ChapUser: "u", ChapSecret: "secret-secret",
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}

func TestADeviceOverARealTargetSurvivesLostSessionsAndGrows(t *testing.T) {
	r := newRig(t)
	a, err := r.attach.Attach(t.Context(), r.request())
	if err != nil {
		t.Fatal(err)
	}
	if a.SizeBytes != 128*mib {
		t.Errorf("size %d", a.SizeBytes)
	}
	run(t, "mkfs.ext4", "-q", "-b", "4096", a.Device)
	dir := t.TempDir()
	run(t, "mount", a.Device, dir)
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	data := make([]byte, 32*mib)
	rand.Read(data)
	for i := range 4 {
		done := make(chan error, 1)
		part := filepath.Join(dir, "part"+string(rune('0'+i)))
		go func() {
			f, err := os.Create(part)
			if err == nil {
				_, err = f.Write(data[i*8*mib : (i+1)*8*mib])
			}
			if err == nil {
				err = f.Sync()
			}
			done <- errors.Join(err, f.Close())
		}()
		// The target drops the session in the middle; the device's users must not notice.
		if _, err := r.srv.CloseSessions(t.Context(), r.iqn, initiator); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatalf("write over a lost session: %v", err)
		}
	}
	run(t, "fstrim", dir)
	run(t, "umount", dir)
	run(t, "e2fsck", "-fn", a.Device)
	run(t, "mount", a.Device, dir)
	for i := range 4 {
		got, err := os.ReadFile(filepath.Join(dir, "part"+string(rune('0'+i))))
		if err != nil || !bytes.Equal(got, data[i*8*mib:(i+1)*8*mib]) {
			t.Errorf("part %d differs (%v)", i, err)
		}
	}
	run(t, "umount", dir)

	// The target announces the new size by a unit attention; nobody asks for it here.
	r.vol.Resize(192 * mib)
	r.srv.Resized(r.iqn)
	deadline := time.Now().Add(30 * time.Second)
	for {
		list, err := r.attach.List(t.Context(), &attachv1.ListRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if list.Attachments[0].SizeBytes == 192*mib {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the device did not grow: %v", list)
		}
		// A command is needed for the target to answer with the attention.
		if _, err := r.attach.Resize(t.Context(), &attachv1.ResizeRequest{VolumeId: r.id.String()}); err != nil && status.Code(err) != codes.Aborted {
			t.Fatal(err)
		}
	}
	if _, err := r.attach.Detach(t.Context(), &attachv1.DetachRequest{VolumeId: r.id.String()}); err != nil {
		t.Fatal(err)
	}
	// The target forgets the session after it has answered the logout.
	for end := time.Now().Add(30 * time.Second); len(r.srv.Sessions(r.iqn)) != 0; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d sessions are left after detach", len(r.srv.Sessions(r.iqn)))
		}
	}
}

func TestLoginsThatCannotSucceedAreToldApart(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		name   string
		change func(*attachv1.AttachRequest)
		want   codes.Code
	}{
		{"a wrong secret", func(in *attachv1.AttachRequest) { in.ChapSecret = "another-secret" }, codes.Unauthenticated},
		{"an unknown target", func(in *attachv1.AttachRequest) { in.Iqn += "x" }, codes.NotFound},
		{"another volume's target", func(in *attachv1.AttachRequest) { in.VolumeId = block.NewVolumeID().String() }, codes.Internal},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			in := r.request()
			in.Portals = []string{r.address}
			tc.change(in)
			_, err := r.attach.Attach(ctx, in)
			if status.Code(err) != tc.want || strings.Contains(err.Error(), in.ChapSecret) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
}

func TestTheTargetsFullPoolIsENOSPCOnTheDevice(t *testing.T) {
	r := newRig(t)
	a, err := r.attach.Attach(t.Context(), r.request())
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(a.Device, unix.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	r.vol.Fail(func(c *target.Command) target.Result {
		if c.Op == target.OpWrite {
			return target.Result{Kind: target.SpaceExhausted}
		}
		return target.Result{Kind: target.OK}
	})
	if _, err := unix.Pwrite(fd, page, 0); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write into a full pool: %v, want %v", err, unix.ENOSPC)
	}
}
