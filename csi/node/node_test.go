package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/iomesh/iomesh/csi/code"
	"github.com/iomesh/iomesh/csi/controller"
	"github.com/iomesh/iomesh/csi/node"
	"github.com/iomesh/iomesh/csi/rig"
)

const mib = 1 << 20

// claim drives one volume through the driver as Kubernetes does.
type claim struct {
	t          *testing.T
	rig        *rig.Rig
	c          *controller.Service
	n          *node.Service
	cap        *csipb.VolumeCapability
	id, nodeID string
	context    map[string]string
	publish    map[string]string
	secrets    map[string]string
	staging    string
}

func fsCap(fstype string, flags ...string) *csipb.VolumeCapability {
	return &csipb.VolumeCapability{
		AccessType: &csipb.VolumeCapability_Mount{Mount: &csipb.VolumeCapability_MountVolume{FsType: fstype, MountFlags: flags}},
		AccessMode: &csipb.VolumeCapability_AccessMode{Mode: csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
	}
}

func blockCap(m csipb.VolumeCapability_AccessMode_Mode) *csipb.VolumeCapability {
	return &csipb.VolumeCapability{
		AccessType: &csipb.VolumeCapability_Block{Block: &csipb.VolumeCapability_BlockVolume{}}, AccessMode: &csipb.VolumeCapability_AccessMode{Mode: m},
	}
}

func newClaim(r *rig.Rig, t *testing.T, name string, size int64, capability *csipb.VolumeCapability, change ...func(*csipb.CreateVolumeRequest)) *claim {
	t.Helper()
	k := &claim{t: t, rig: r, c: r.Controller(), n: r.Node("n1", nil), cap: capability}
	info, err := k.n.NodeGetInfo(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	k.nodeID = info.NodeId
	in := &csipb.CreateVolumeRequest{
		Name: name, CapacityRange: &csipb.CapacityRange{RequiredBytes: size}, VolumeCapabilities: []*csipb.VolumeCapability{capability},
	}
	for _, f := range change {
		f(in)
	}
	v, err := k.c.CreateVolume(t.Context(), in)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	k.id, k.context = v.Volume.VolumeId, v.Volume.VolumeContext
	k.staging = filepath.Join(r.Dir, "staging-"+name)
	return k
}

func (k *claim) controllerPublish() error {
	resp, err := k.c.ControllerPublishVolume(k.t.Context(), &csipb.ControllerPublishVolumeRequest{
		VolumeId: k.id, NodeId: k.nodeID, VolumeCapability: k.cap, VolumeContext: k.context, Secrets: k.secrets,
	})
	if err == nil {
		k.publish = resp.PublishContext
	}
	return err
}

func (k *claim) stage() error {
	ctx, cancel := context.WithTimeout(k.t.Context(), time.Minute)
	defer cancel()
	_, err := k.n.NodeStageVolume(ctx, &csipb.NodeStageVolumeRequest{
		VolumeId: k.id, PublishContext: k.publish, StagingTargetPath: k.staging, VolumeCapability: k.cap, VolumeContext: k.context, Secrets: k.secrets,
	})
	return err
}

func (k *claim) target(pod string) string { return filepath.Join(k.rig.Dir, "pods", pod) }

func (k *claim) nodePublish(pod string, readOnly bool) error {
	_, err := k.n.NodePublishVolume(k.t.Context(), &csipb.NodePublishVolumeRequest{
		VolumeId: k.id, PublishContext: k.publish, StagingTargetPath: k.staging, TargetPath: k.target(pod), VolumeCapability: k.cap, Readonly: readOnly, VolumeContext: k.context,
	})
	return err
}

func (k *claim) nodeUnpublish(pod string) error {
	_, err := k.n.NodeUnpublishVolume(k.t.Context(), &csipb.NodeUnpublishVolumeRequest{VolumeId: k.id, TargetPath: k.target(pod)})
	return err
}

func (k *claim) unstage() error {
	_, err := k.n.NodeUnstageVolume(k.t.Context(), &csipb.NodeUnstageVolumeRequest{VolumeId: k.id, StagingTargetPath: k.staging})
	return err
}

func (k *claim) controllerUnpublish() error {
	_, err := k.c.ControllerUnpublishVolume(k.t.Context(), &csipb.ControllerUnpublishVolumeRequest{VolumeId: k.id, NodeId: k.nodeID})
	return err
}

func (k *claim) delete() error {
	_, err := k.c.DeleteVolume(k.t.Context(), &csipb.DeleteVolumeRequest{VolumeId: k.id})
	return err
}

// up and down are the whole ways.
func (k *claim) up(pod string) {
	k.t.Helper()
	if err := errors.Join(k.controllerPublish(), k.stage(), k.nodePublish(pod, false)); err != nil {
		k.t.Fatal(err)
	}
}

func (k *claim) down(pod string) {
	k.t.Helper()
	if err := errors.Join(k.nodeUnpublish(pod), k.unstage(), k.controllerUnpublish()); err != nil {
		k.t.Fatal(err)
	}
}

func (k *claim) gone() {
	k.t.Helper()
	if err := k.delete(); err != nil {
		k.t.Error(err)
	}
	nothingLeft(k.t, k.rig)
}

func nothingLeft(t *testing.T, r *rig.Rig) {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, r.Dir) {
			t.Errorf("mount is left: %s", line)
		}
	}
	if n := r.Attachments(); n != 0 {
		t.Errorf("%d devices are left", n)
	}
	if e, err := os.ReadDir(filepath.Join(r.Dir, "csi")); err == nil && len(e) > 0 {
		t.Errorf("records are left: %v", e)
	}
	if e, err := os.ReadDir(filepath.Join(r.Dir, "pods")); err == nil && len(e) > 0 {
		t.Errorf("target paths are left: %v", e)
	}
	if r.Meta == nil {
		return
	}
	if _, _, g := r.Meta.Counts(); g != 0 {
		t.Errorf("%d grants are left", g)
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func TestEveryFilesystemKeepsDataAndHas4KiBBlocks(t *testing.T) {
	r := rig.New(t)
	for _, fstype := range []string{"ext4", "xfs", "ext3", "ext2"} {
		t.Run(fstype, func(t *testing.T) {
			k := newClaim(r, t, "fs-"+fstype, 320*mib, fsCap(fstype, "noatime"))
			k.up("a")
			var fs unix.Statfs_t
			if err := unix.Statfs(k.target("a"), &fs); err != nil || fs.Bsize != 4096 {
				t.Errorf("block size %d, %v", fs.Bsize, err)
			}
			data := make([]byte, 4*mib)
			rand.Read(data)
			if err := os.WriteFile(k.target("a")+"/data", data, 0o600); err != nil {
				t.Fatal(err)
			}
			k.down("a")
			k.up("b")
			if got, err := os.ReadFile(k.target("b") + "/data"); err != nil || !bytes.Equal(got, data) {
				t.Errorf("data after attaching again differ (%v)", err)
			}
			mounts, _ := os.ReadFile("/proc/self/mounts")
			for line := range strings.Lines(string(mounts)) {
				if strings.Contains(line, k.target("b")) && !strings.Contains(line, "noatime") {
					t.Errorf("the class's mount option is missing: %s", line)
				}
			}
			k.down("b")
			k.gone()
		})
	}
}

// TestAKilledPluginConverges ends the plugin at each step of the way up and down, once, and starts another one, which gets the same call
// again, as kubelet repeats it.
func TestAKilledPluginConverges(t *testing.T) {
	r := rig.New(t)
	killed := errors.New("killed")
	for _, mode := range []string{"mount", "block"} {
		for _, at := range node.Steps() {
			t.Run(mode+" at "+at, func(t *testing.T) {
				capability := fsCap("ext4")
				if mode == "block" {
					capability = blockCap(csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
				}
				k := newClaim(r, t, mode+"-"+at, 32*mib, capability)
				hit := false
				k.n = r.Node("n1", func(step string) error {
					if step == at && !hit {
						hit = true
						return killed
					}
					return nil
				})
				repeat := func(what string, f func() error) {
					err := f()
					if err != nil && errors.Is(err, killed) {
						k.n = r.Node("n1", nil) // a new process knows nothing but what is on disk
						k.n.Sweep(t.Context())
						err = f()
					}
					if err != nil {
						t.Fatalf("%s: %v", what, err)
					}
				}
				repeat("controller publish", k.controllerPublish)
				repeat("stage", k.stage)
				repeat("publish", func() error { return k.nodePublish("p", false) })
				if mode == "mount" {
					if err := os.WriteFile(k.target("p")+"/x", []byte("x"), 0o600); err != nil {
						t.Error(err)
					}
				}
				repeat("unpublish", func() error { return k.nodeUnpublish("p") })
				repeat("unstage", k.unstage)
				repeat("controller unpublish", k.controllerUnpublish)
				if !hit && !(mode == "block" && (at == "stage-formatting" || at == "stage-mounted")) {
					t.Errorf("the step %s was never reached", at)
				}
				k.gone()
			})
		}
	}
}

func TestCallsOfAKilledStageCanBeFollowedByUnstageAlone(t *testing.T) {
	r := rig.New(t)
	for _, at := range []string{"stage-recorded", "stage-attached", "stage-formatting", "stage-mounted"} {
		k := newClaim(r, t, "u-"+at, 32*mib, fsCap("ext4"))
		if err := k.controllerPublish(); err != nil {
			t.Fatal(err)
		}
		k.n = r.Node("n1", func(step string) error {
			if step == at {
				return errors.New("killed")
			}
			return nil
		})
		if err := k.stage(); err == nil {
			t.Fatal("the step was not reached")
		}
		k.n = r.Node("n1", nil)
		if err := errors.Join(k.unstage(), k.controllerUnpublish()); err != nil {
			t.Errorf("%s: %v", at, err)
		}
		k.gone()
	}
}

func TestTheSweepRemovesWhatIsNoLongerGranted(t *testing.T) {
	r := rig.New(t)
	k := newClaim(r, t, "swept", 32*mib, fsCap("ext4"))
	k.up("a")
	// The controller took the volume away while the node was cut off; kubelet forgot it. First it is still mounted.
	if err := k.controllerUnpublish(); err != nil {
		t.Fatal(err)
	}
	k.n.Sweep(t.Context())
	if r.Attachments() != 1 {
		t.Fatal("the sweep touched a mounted volume")
	}
	if err := errors.Join(unix.Unmount(k.target("a"), 0), unix.Unmount(k.staging, 0), os.Remove(k.target("a"))); err != nil {
		t.Fatal(err)
	}
	r.Node("n1", nil).Sweep(t.Context())
	k.gone()
}

func TestForeignDataIsNeverFormatted(t *testing.T) {
	r := rig.New(t)
	for _, tc := range []struct {
		name   string
		fill   func(device string)
		fstype string
		text   string
	}{
		{"data without a signature", func(d string) {
			f, err := os.OpenFile(d, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			_, _ = f.WriteAt([]byte("a database without a filesystem"), 8192)
		}, "ext4", "unknown kind"},
		{"data at the very end", func(d string) {
			f, err := os.OpenFile(d, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			_, _ = f.WriteAt([]byte("metadata of a software RAID"), 32*mib-512)
		}, "ext4", "unknown kind"},
		{"another filesystem", func(d string) { run(t, "mkfs.ext3", "-q", d) }, "ext4", `holds "ext3"`},
		{"a swap area", func(d string) { run(t, "mkswap", d) }, "ext4", `holds "swap"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			k := newClaim(r, t, strings.ReplaceAll(tc.name, " ", "-"), 32*mib, blockCap(csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
			k.up("raw")
			tc.fill(k.target("raw"))
			before := run(t, "sha256sum", k.target("raw"))
			k.down("raw")
			k.cap = fsCap(tc.fstype)
			if err := k.controllerPublish(); err != nil {
				t.Fatal(err)
			}
			err := k.stage()
			if code.Of(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("stage: %v, want FailedPrecondition with %q", err, tc.text)
			}
			if err := errors.Join(k.unstage(), k.controllerUnpublish()); err != nil {
				t.Fatal(err)
			}
			k.cap = blockCap(csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER)
			k.up("raw")
			if after := run(t, "sha256sum", k.target("raw")); after != before {
				t.Error("the data were changed")
			}
			k.down("raw")
			k.gone()
		})
	}
}

func TestAnUnfinishedXFSIsFormattedAgain(t *testing.T) {
	r := rig.New(t)
	k := newClaim(r, t, "half-xfs", 320*mib, blockCap(csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	k.up("raw")
	run(t, "mkfs.xfs", "-q", k.target("raw"))
	f, err := os.OpenFile(k.target("raw"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteAt([]byte{1}, 126) // sb_inprogress
	f.Close()
	k.down("raw")
	k.cap = fsCap("xfs")
	k.up("a")
	k.down("a")
	k.gone()
}

func TestReadOnlyManyRefusesWritesOnEveryNode(t *testing.T) {
	r := rig.New(t)
	src := newClaim(r, t, "source", 32*mib, blockCap(csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
	src.up("raw")
	if err := os.WriteFile(src.target("raw"), []byte("content"), 0); err != nil {
		t.Fatal(err)
	}
	src.down("raw")
	k := newClaim(r, t, "rox", 32*mib, blockCap(csipb.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY), func(in *csipb.CreateVolumeRequest) {
		in.VolumeContentSource = &csipb.VolumeContentSource{Type: &csipb.VolumeContentSource_Volume{Volume: &csipb.VolumeContentSource_VolumeSource{VolumeId: src.id}}}
	})
	k.up("ro")
	buf := make([]byte, 7)
	f, err := os.Open(k.target("ro"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Read(buf); err != nil || string(buf) != "content" {
		t.Errorf("read %q, %v", buf, err)
	}
	f.Close()
	fd, err := unix.Open(k.target("ro"), unix.O_WRONLY, 0)
	if err == nil {
		if _, err = unix.Pwrite(fd, make([]byte, 4096), 0); err == nil {
			err = unix.Fsync(fd)
		}
		unix.Close(fd)
	}
	if err == nil {
		t.Error("a ReadOnlyMany volume was written")
	}
	if n := r.LUNs.Open("iqn.2016-02.com.iomesh:volume:" + k.id).Writes.Load(); n != 0 {
		t.Errorf("%d writes reached the target", n)
	}
	k.down("ro")
	if err := src.delete(); err != nil {
		t.Error(err)
	}
	k.gone()
}

func TestReadOnlyPublishOfAWritableVolume(t *testing.T) {
	r := rig.New(t)
	k := newClaim(r, t, "ro-pod", 32*mib, fsCap("ext4"))
	k.up("rw")
	if err := k.nodePublish("ro", true); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(k.target("rw")+"/x", []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(k.target("ro")+"/y", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write through a read-only publish: %v", err)
	}
	if err := k.nodePublish("ro", true); err != nil {
		t.Errorf("repeated publish: %v", err)
	}
	if err := k.nodePublish("ro", false); code.Of(err) != codes.AlreadyExists {
		t.Errorf("publish with another mode: %v", err)
	}
	if err := k.unstage(); code.Of(err) != codes.FailedPrecondition {
		t.Errorf("unstage while published: %v", err)
	}
	if err := k.nodeUnpublish("ro"); err != nil {
		t.Error(err)
	}
	k.down("rw")
	k.gone()
}

func TestGrowing(t *testing.T) {
	r := rig.New(t)
	expand := func(k *claim, size int64) {
		t.Helper()
		resp, err := k.c.ControllerExpandVolume(t.Context(), &csipb.ControllerExpandVolumeRequest{VolumeId: k.id, CapacityRange: &csipb.CapacityRange{RequiredBytes: size}})
		if err != nil || resp.CapacityBytes != size || !resp.NodeExpansionRequired {
			t.Fatalf("expand: %v, %v", resp, err)
		}
	}
	nodeExpand := func(k *claim, size int64) error {
		_, err := k.n.NodeExpandVolume(t.Context(), &csipb.NodeExpandVolumeRequest{VolumeId: k.id, VolumePath: k.target("a"), StagingTargetPath: k.staging, CapacityRange: &csipb.CapacityRange{RequiredBytes: size}})
		return err
	}
	total := func(k *claim) int64 {
		t.Helper()
		st, err := k.n.NodeGetVolumeStats(t.Context(), &csipb.NodeGetVolumeStatsRequest{VolumeId: k.id, VolumePath: k.target("a")})
		if err != nil {
			t.Fatal(err)
		}
		return st.Usage[0].Total
	}
	t.Run("xfs online", func(t *testing.T) {
		k := newClaim(r, t, "grow-xfs", 320*mib, fsCap("xfs"))
		k.up("a")
		if err := nodeExpand(k, 512*mib); code.Of(err) != codes.Unavailable {
			t.Errorf("node expansion before the controller's: %v", err)
		}
		expand(k, 512*mib)
		if err := nodeExpand(k, 512*mib); err != nil {
			t.Fatal(err)
		}
		if n := total(k); n < 400*mib {
			t.Errorf("%d bytes after growing", n)
		}
		k.down("a")
		k.gone()
	})
	t.Run("block online", func(t *testing.T) {
		k := newClaim(r, t, "grow-block", 32*mib, blockCap(csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER))
		k.up("a")
		expand(k, 64*mib)
		if err := nodeExpand(k, 64*mib); err != nil {
			t.Fatal(err)
		}
		if n := total(k); n != 64*mib {
			t.Errorf("%d bytes after growing", n)
		}
		k.down("a")
		k.gone()
	})
	t.Run("ext4 online where allowed, else at the next mount with a clear error before", func(t *testing.T) {
		k := newClaim(r, t, "grow-ext4", 64*mib, fsCap("ext4"))
		k.up("a")
		expand(k, 256*mib)
		if err := nodeExpand(k, 256*mib); err != nil {
			if code.Of(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "mounted next") {
				t.Fatalf("online growth: %v", err)
			}
			k.down("a")
			k.up("a")
			if err := nodeExpand(k, 256*mib); err != nil {
				t.Fatalf("node expansion after the growth at mount: %v", err)
			}
		}
		if n := total(k); n < 200*mib {
			t.Errorf("%d bytes after growing", n)
		}
		k.down("a")
		k.gone()
	})
	t.Run("a restore into a larger volume is grown at its first mount", func(t *testing.T) {
		for _, fstype := range []string{"ext4", "xfs"} {
			src := newClaim(r, t, "small-"+fstype, 320*mib, fsCap(fstype))
			src.up("a")
			if err := os.WriteFile(src.target("a")+"/x", []byte("kept"), 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "sync", "-f", src.target("a"))
			snap, err := src.c.CreateSnapshot(t.Context(), &csipb.CreateSnapshotRequest{Name: "s-" + fstype, SourceVolumeId: src.id})
			if err != nil {
				t.Fatal(err)
			}
			big := newClaim(r, t, "big-"+fstype, 640*mib, fsCap(fstype), func(in *csipb.CreateVolumeRequest) {
				in.VolumeContentSource = &csipb.VolumeContentSource{Type: &csipb.VolumeContentSource_Snapshot{Snapshot: &csipb.VolumeContentSource_SnapshotSource{SnapshotId: snap.Snapshot.SnapshotId}}}
			})
			// Mounted beside its source on one node, with the same filesystem UUID.
			if err := errors.Join(big.controllerPublish(), big.stage(), big.nodePublish("b", false)); err != nil {
				t.Fatal(err)
			}
			var fs unix.Statfs_t
			if err := unix.Statfs(big.target("b"), &fs); err != nil || fs.Blocks*uint64(fs.Bsize) < 500*mib {
				t.Errorf("%s: %d bytes, %v", fstype, fs.Blocks*uint64(fs.Bsize), err)
			}
			if b, err := os.ReadFile(big.target("b") + "/x"); err != nil || string(b) != "kept" {
				t.Errorf("%s: content %q, %v", fstype, b, err)
			}
			big.down("b")
			src.down("a")
			if _, err := src.c.DeleteSnapshot(t.Context(), &csipb.DeleteSnapshotRequest{SnapshotId: snap.Snapshot.SnapshotId}); err != nil {
				t.Error(err)
			}
			if err := big.delete(); err != nil {
				t.Error(err)
			}
			src.gone()
		}
	})
}

func TestTheUsersOwnCHAPSecretsMustMatch(t *testing.T) {
	r := rig.New(t)
	auth := func(in *csipb.CreateVolumeRequest) { in.Parameters = map[string]string{"auth": "true"} }
	k := newClaim(r, t, "auth", 32*mib, fsCap("ext4"), auth)
	for _, bad := range []map[string]string{nil, {"username": "u"}, {"username": "u", "password": "short"}, {"username": "u", "password": "seventeen-letters"}} {
		k.secrets = bad
		if err := k.controllerPublish(); code.Of(err) != codes.InvalidArgument || strings.Contains(err.Error(), "seventeen-letters") {
			t.Errorf("publish with %v: %v", bad, err)
		}
	}
	k.secrets = map[string]string{"username": "u", "password": "right-password"}
	if err := k.controllerPublish(); err != nil {
		t.Fatal(err)
	}
	k.secrets = map[string]string{"username": "u", "password": "wrong-password"}
	if err := k.stage(); code.Of(err) != codes.Unauthenticated || strings.Contains(err.Error(), "wrong-password") || !strings.Contains(err.Error(), "refused the credentials") {
		t.Errorf("stage with a wrong secret: %v", err)
	}
	k.secrets = nil
	if err := k.stage(); code.Of(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "node-stage-secret-name") {
		t.Errorf("stage without a secret: %v", err)
	}
	k.secrets = map[string]string{"username": "u", "password": "right-password"}
	if err := errors.Join(k.stage(), k.nodePublish("a", false)); err != nil {
		t.Fatal(err)
	}
	k.down("a")
	k.gone()
}

func TestNoSecretIsOnDiskOrInThePublishContext(t *testing.T) {
	r := rig.New(t)
	k := newClaim(r, t, "secret", 32*mib, fsCap("ext4"))
	k.up("a")
	secret := r.LUNs.Dialed("iqn.2016-02.com.iomesh:volume:" + k.id).Credentials.Secret
	if len(secret) < 12 {
		t.Fatalf("the grant has no generated secret: %q", secret)
	}
	if s := fmt.Sprint(k.publish, k.context); strings.Contains(s, secret) {
		t.Errorf("the secret is in %s", s)
	}
	for _, dir := range []string{"csi", "attach"} {
		_ = filepath.WalkDir(filepath.Join(r.Dir, dir), func(path string, e os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".json") {
				return err
			}
			if b, _ := os.ReadFile(path); bytes.Contains(b, []byte(secret)) {
				t.Errorf("the secret is in %s", path)
			}
			return nil
		})
	}
	k.down("a")
	k.gone()
}

func TestAVolumeThatIsNotPublishedHereIsNotStaged(t *testing.T) {
	r := rig.New(t)
	k := newClaim(r, t, "ungranted", 32*mib, fsCap("ext4"))
	if err := k.controllerPublish(); err != nil {
		t.Fatal(err)
	}
	if err := k.controllerUnpublish(); err != nil {
		t.Fatal(err)
	}
	if err := k.stage(); code.Of(err) != codes.FailedPrecondition || !strings.Contains(err.Error(), "not published to node n1") {
		t.Errorf("stage: %v", err)
	}
	k.gone()
}

func TestReadWriteOnceIsExclusiveAmongNodes(t *testing.T) {
	r := rig.New(t)
	k := newClaim(r, t, "rwo", 32*mib, fsCap("ext4"))
	if err := k.controllerPublish(); err != nil {
		t.Fatal(err)
	}
	first := k.nodeID
	info, err := r.Node("n2", nil).NodeGetInfo(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	k.nodeID = info.NodeId
	if err := k.controllerPublish(); code.Of(err) != codes.FailedPrecondition {
		t.Errorf("publish to a second node: %v", err)
	}
	// Kubernetes gives up the first node: released at once, whether it lives or not.
	if _, err := k.c.ControllerUnpublishVolume(t.Context(), &csipb.ControllerUnpublishVolumeRequest{VolumeId: k.id, NodeId: first}); err != nil {
		t.Fatal(err)
	}
	if err := k.controllerPublish(); err != nil {
		t.Errorf("publish to the second node after the first gave it up: %v", err)
	}
	if err := k.controllerUnpublish(); err != nil {
		t.Error(err)
	}
	k.gone()
}
