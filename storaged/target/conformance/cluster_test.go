package conformance_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/dev"
	"github.com/iomesh/iomesh/storaged/target/conformance"
)

// These tests run against volumes with three replicas on the three chunks of a development cluster in this process.

const everybody = "*"

type cluster struct {
	t       *testing.T
	control dev.Control
	volumes storagedv1.VolumesClient
}

func newCluster(t *testing.T) *cluster {
	t.Helper()
	control, stop, err := dev.Start(context.Background(), dev.Options{Dir: t.TempDir(), Chunks: 3, Disks: 1, DiskBytes: 2 << 30, RepairDelay: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	src, err := mtls.Load(control.TLSDir)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(control.Meta[0], grpc.WithTransportCredentials(src.ClientCredentials(mtls.RoleMeta)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &cluster{t: t, control: control, volumes: storagedv1.NewVolumesClient(conn)}
}

func (c *cluster) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	c.t.Cleanup(cancel)
	return ctx
}

// volume makes a volume and a grant for an initiator; without a secret there is no CHAP.
func (c *cluster) volume(name string, sizeBytes uint64, initiatorName, user, secret string, mode storagedv1.AccessMode) *storagedv1.Volume {
	c.t.Helper()
	v, err := c.volumes.CreateVolume(c.ctx(), &storagedv1.CreateVolumeRequest{Name: name, SizeBytes: sizeBytes, ReplicaFactor: 3})
	if err != nil {
		c.t.Fatal(err)
	}
	_, err = c.volumes.PublishVolume(c.ctx(), &storagedv1.PublishVolumeRequest{VolumeId: v.Id, Initiator: initiatorName, Mode: mode, NoAuth: secret == "",
		ChapUser: user, ChapSecret: secret})
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

func (c *cluster) dial(v *storagedv1.Volume) *initiator.Session {
	c.t.Helper()
	s, err := initiator.Dial(c.ctx(), initiator.Options{Portals: []string{c.control.Portal}, Target: v.Iqn, Initiator: "iqn.2026-01.test:load"})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { s.Close() })
	return s
}

// misread names the test of libiscsi 1.19 that is wrong about physical blocks of 4096 bytes (see docs/iscsi-conformance.md); it passes
// where a unit reports 512, which storaged/target tests.
const misread = "GetLBAStatus.UnmapSingle"

func TestLibiscsiSuitePassesOnThreeReplicas(t *testing.T) {
	if testing.Short() {
		t.Skip("runs an external test suite")
	}
	c := newCluster(t)
	v := c.volume("scratch", 256<<20, everybody, "", "", storagedv1.AccessMode_ACCESS_MODE_SHARED)
	url := func(address string) string { return "iscsi://" + address + "/" + v.Iqn + "/1" }
	// The redirector, and a chunk: whichever it is, it leads to the owner, by a path of its own.
	var report *conformance.Report
	for again := 0; ; again++ {
		var err error
		before := c.epoch(v)
		report, err = conformance.Run(c.ctx(), conformance.Options{URL: url(c.control.Portal), SecondURL: url(c.control.Nodes[1].ISCSI)})
		after := c.epoch(v)
		if before != after && again < 3 {
			// The suite takes a lost connection for a failure. On a machine that does not let the owner run, another chunk takes over.
			t.Logf("the owner changed during the run (epoch %d, then %d): once more", before, after)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		break
	}
	if len(report.Tests) < 230 {
		t.Errorf("only %d tests were run", len(report.Tests))
	}
	for _, f := range report.Failed() {
		if f.Name != misread {
			t.Errorf("%s failed: %s", f.Name, strings.Join(f.Said, " | "))
		}
	}
	documented, err := os.ReadFile("../../../docs/iscsi-conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range report.Skipped() {
		if !strings.Contains(string(documented), "`"+s.Name+"`") {
			t.Errorf("%s skipped something and docs/iscsi-conformance.md does not say why: %s", s.Name, strings.Join(s.Said, " | "))
		}
	}
	t.Logf("%d tests, %d failed, %d skipped something", len(report.Tests), len(report.Failed()), len(report.Skipped()))
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing: install the Debian packages of hack/deps.sh", name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func TestQemuWritesReadsAndComparesOnThreeReplicas(t *testing.T) {
	const name, secret = "iqn.2026-01.test:qemu", "secretsecret"
	c := newCluster(t)
	for _, k := range []struct {
		name, digest string
		chap         bool
	}{{"plain", "none", false}, {"digests", "crc32c", false}, {"chap", "none", true}, {"chap-and-digests", "crc32c", true}} {
		t.Run(k.name, func(t *testing.T) {
			user, pass := "", ""
			if k.chap {
				user, pass = "qemu", secret
			}
			v := c.volume("qemu-"+k.name, 32<<20, name, user, pass, storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE)
			image := "driver=iscsi,transport=tcp,portal=" + c.control.Portal + ",target=" + v.Iqn + ",lun=1,initiator-name=" + name + ",header-digest=" + k.digest
			var extra []string
			if k.chap {
				file := filepath.Join(t.TempDir(), "secret")
				if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
					t.Fatal(err)
				}
				extra = []string{"--object", "secret,id=s,file=" + file}
				image += ",user=" + user + ",password-secret=s"
			}
			with := func(args ...string) []string { return append(args, append(extra, "--image-opts", image)...) }
			run(t, "qemu-io", with("-c", "write -P 7 0 8M", "-c", "write -P 9 1536 512", "-c", "discard 4M 1M", "-c", "write -z 6M 64k", "-c", "flush",
				"-c", "read -P 9 1536 512", "-c", "read -P 7 0 1536", "-c", "read -P 0 4M 1M", "-c", "read -P 0 6M 64k", "-c", "read -P 7 7M 1M")...)
			file := filepath.Join(t.TempDir(), "image")
			run(t, "qemu-img", append(with("convert"), "-O", "raw", file)...)
			run(t, "qemu-img", append(with("compare"), "driver=raw,file.filename="+file)...)
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(content[7<<20:8<<20], bytes.Repeat([]byte{7}, 1<<20)) || len(content) != 32<<20 {
				t.Error("the image is not what was written")
			}
			if k.chap {
				path, _ := exec.LookPath("qemu-io")
				wrong := filepath.Join(t.TempDir(), "wrong")
				if err := os.WriteFile(wrong, []byte("wrongwrongwrong"), 0o600); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				out, err := exec.CommandContext(ctx, path, "-c", "read 0 512", "--object", "secret,id=s,file="+wrong, "--image-opts", image).CombinedOutput()
				if err == nil || strings.Contains(string(out), "wrongwrong") {
					t.Errorf("a wrong secret: %v %s", err, out)
				}
			}
		})
	}
}

func (c *cluster) epoch(v *storagedv1.Volume) uint64 {
	r, err := c.volumes.Locate(c.ctx(), &storagedv1.LocateRequest{Iqn: v.Iqn})
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Epoch
}

func (c *cluster) owner(v *storagedv1.Volume) uint32 {
	r, err := c.volumes.Locate(c.ctx(), &storagedv1.LocateRequest{Iqn: v.Iqn})
	if err != nil {
		c.t.Fatal(err)
	}
	return r.Chunk
}

func ordinal(n int) string { return fmt.Sprintf("n%d", n%3+1) }
