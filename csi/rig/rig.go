// Package rig puts the whole driver together in one process for tests: controller and node over the block service's interface in
// memory (metatest), the real userspace attacher with LUNs over files (attachtest), real mounts. Root only.
package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	attachv1 "github.com/iomesh/iomesh/attach/api/v1"
	"github.com/iomesh/iomesh/attach/attachtest"
	"github.com/iomesh/iomesh/attach/daemon"
	"github.com/iomesh/iomesh/attach/loop"
	"github.com/iomesh/iomesh/csi/controller"
	"github.com/iomesh/iomesh/csi/identity"
	"github.com/iomesh/iomesh/csi/meta"
	"github.com/iomesh/iomesh/csi/metatest"
	"github.com/iomesh/iomesh/csi/node"
	"github.com/iomesh/iomesh/csi/node/mode"
	"github.com/iomesh/iomesh/csi/node/userspace"
	"github.com/iomesh/iomesh/csi/rpc"
)

// Rig is a running driver.
type Rig struct {
	T   testing.TB
	Dir string
	// Meta and LUNs are nil in a rig made by NewStoraged.
	Meta *metatest.Server
	LUNs *attachtest.Store
	Log  *slog.Logger

	daemon             *daemon.Daemon
	controller, client *meta.Client // of the controller, and of nodes
	portal             string
}

// luns makes the files of volumes.
type luns struct{ *attachtest.Store }

// Clone copies the data with its holes.
func (l luns) Clone(from, to string, sizeBytes int64) error {
	in, err := os.Open(l.Path(from))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(l.Path(to), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	for at := int64(0); ; {
		lo, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			return err
		}
		hi, err := unix.Seek(int(in.Fd()), lo, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, lo), io.NewSectionReader(in, lo, hi-lo)); err != nil {
			return err
		}
		at = hi
	}
	return l.Create(to, sizeBytes)
}

// Root skips the test for an ordinary user and fails it where the machine lacks something.
func Root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts, FUSE and loop devices need root")
	}
	if err := loop.Supported(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Fatalf("the kernel's FUSE is missing: %v", err)
	}
}

type testLog struct{ t testing.TB }

func (w testLog) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}

// New starts everything but a driver's plugins, over a block service in memory.
func New(t testing.TB) *Rig {
	t.Helper()
	r := bare(t)
	r.Meta = metatest.New()
	r.must(os.Mkdir(filepath.Join(r.Dir, "luns"), 0o700))
	r.LUNs = attachtest.NewStore(filepath.Join(r.Dir, "luns"))
	r.Meta.Backing = luns{r.LUNs}
	r.LUNs.SetRefuse(r.login)

	m := grpc.NewServer(grpc.UnaryInterceptor(r.Meta.Interceptor))
	r.Meta.Register(m)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	go func() { _ = m.Serve(l) }()
	t.Cleanup(m.Stop)
	r.client = r.dial(l.Addr().String(), insecure.NewCredentials())
	r.controller = r.client
	r.attacher(r.LUNs)
	return r
}

func bare(t testing.TB) *Rig {
	t.Helper()
	Root(t)
	dir, err := os.MkdirTemp("", "csi") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return &Rig{T: t, Dir: dir, Log: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))}
}

func (r *Rig) dial(address string, creds credentials.TransportCredentials) *meta.Client {
	c, err := meta.Dial(meta.Options{Endpoints: []string{address}, Credentials: creds, Log: r.Log})
	r.must(err)
	r.T.Cleanup(func() { c.Close() })
	return c
}

// attacher starts the userspace attacher of the node.
func (r *Rig) attacher(dialer daemon.Dialer) {
	d, err := daemon.New(r.T.Context(), daemon.Options{Dir: filepath.Join(r.Dir, "attach"), Dialer: dialer, Log: r.Log})
	r.must(err)
	r.daemon = d
	g := grpc.NewServer()
	attachv1.RegisterAttacherServer(g, daemon.Server{Daemon: d})
	r.serve(g, r.AttachSocket())
	r.T.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			r.T.Errorf("devices are left: %v", err)
		}
	})
}

// login is the target's check: the grant's CHAP secret.
func (r *Rig) login(t daemon.Target) error {
	g, err := r.Meta.GetGrant(context.Background(), &storagedv1.GetGrantRequest{VolumeId: t.VolumeID, Initiator: t.Initiator})
	if err != nil {
		return fmt.Errorf("%w: %w", daemon.ErrNotFound, err)
	}
	if g.GetChapUser() != t.Credentials.User || g.GetChapSecret() != t.Credentials.Secret {
		return daemon.ErrCredentials
	}
	if ro := g.GetMode() == storagedv1.AccessMode_ACCESS_MODE_READ_ONLY; ro != t.ReadOnly {
		return fmt.Errorf("the grant's read-only is %t, the initiator's %t", ro, t.ReadOnly)
	}
	return nil
}

func (r *Rig) must(err error) {
	r.T.Helper()
	if err != nil {
		r.T.Fatal(err)
	}
}

func (r *Rig) serve(g *grpc.Server, socket string) {
	l, err := rpc.Listen(socket)
	r.must(err)
	go func() { _ = g.Serve(l) }()
	r.T.Cleanup(g.Stop)
}

// AttachSocket is the attacher's socket.
func (r *Rig) AttachSocket() string { return filepath.Join(r.Dir, "attach.sock") }

// Controller makes a controller service.
func (r *Rig) Controller() *controller.Service {
	return &controller.Service{Store: r.controller, Pool: r.controller.Cluster, ClusterID: r.controller.ClusterID, Log: r.Log}
}

// Node makes a node service; several stand for restarts of one plugin.
func (r *Rig) Node(name string, step func(string) error) *node.Service {
	r.T.Helper()
	a, err := userspace.New(r.AttachSocket())
	r.must(err)
	r.T.Cleanup(func() { a.Close() })
	n, err := node.New(node.Options{
		Node: name, Mode: mode.Userspace, Attachers: node.Attachers{mode.Userspace: a}, Grants: r.client, ClusterID: r.client.ClusterID,
		StateDir: filepath.Join(r.Dir, "csi"), Portal: r.portal, VolumesMax: 128, Log: r.Log, Step: step,
	})
	r.must(err)
	return n
}

// Serve serves all three services on one socket, as a driver for csi-sanity, and returns its address.
func (r *Rig) Serve(c *controller.Service, n *node.Service) string {
	r.T.Helper()
	s := rpc.New(slog.New(slog.DiscardHandler)) // csi-sanity makes many calls that have to fail
	csipb.RegisterIdentityServer(s, identity.Service{})
	csipb.RegisterControllerServer(s, c)
	csipb.RegisterNodeServer(s, n)
	socket := filepath.Join(r.Dir, "csi.sock")
	r.serve(s.Server, socket)
	return "unix://" + socket
}

// Attachments is how many devices there are.
func (r *Rig) Attachments() int {
	list, err := daemon.Server{Daemon: r.daemon}.List(context.Background(), &attachv1.ListRequest{})
	r.must(err)
	return len(list.GetAttachments())
}
