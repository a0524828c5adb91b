package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/blockdev/fakesys"
	"github.com/iomesh/iomesh/agent/signature"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/diskdir"
)

var (
	clusterID = [16]byte{1}
	diskID    = [16]byte{2}
)

const (
	clusterText = "01000000-0000-0000-0000-000000000000"
	diskText    = "02000000-0000-0000-0000-000000000000"
	sizeBytes   = 4 << 20
	machine     = "device sdb pci/host1/target1/block/sdb\ndev 8:16\ndevice/wwid naa.2\ndevice/serial Z1\ndiskseq 4\n"
	blank       = machine + "size 4MiB\n"
	withBtrfs   = machine + "size 66MiB\ncontent 65600 _BHRfS_M\ncontent 67108928 _BHRfS_M\n"
)

// node is one machine with one disk, an object and a claim, whose keeper may be killed at any step.
type node struct {
	t       *testing.T
	dir     string
	scanner *blockdev.Scanner
	now     time.Time

	wish   *v1alpha1.Claim
	status Result
	uid    string

	stopAt  int // the step of a round at which the keeper is killed; 0 = never
	writes  int // writes to the device before a kill; 0 = never
	steps   []string
	onOpen  func()
	openErr error
}

func newNode(t *testing.T, text string) *node {
	t.Helper()
	dir := t.TempDir()
	s, err := fakesys.Build(filepath.Join(dir, "machine"), text, "worker-1")
	if err != nil {
		t.Fatal(err)
	}
	return &node{t: t, dir: dir, scanner: s, uid: "object-1", now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
}

var errKilled = errors.New("killed")

func (n *node) device() *blockdev.Device {
	devices, err := n.scanner.Scan(context.Background())
	if err != nil {
		n.t.Fatal(err)
	}
	for _, d := range devices {
		if d.KernelName == "sdb" {
			return d
		}
	}
	return nil
}

func (n *node) claim(mutate ...func(*v1alpha1.Claim)) {
	id := n.device().Identity()
	n.wish = &v1alpha1.Claim{UID: "claim-1", ClusterRef: v1alpha1.ClusterRef{Name: "iomesh", UID: "u", ClusterID: clusterText},
		MountType: v1alpha1.DataStoreWithJournal, Fingerprint: id.Fingerprint(), ContentFingerprint: id.ContentFingerprint()}
	for _, m := range mutate {
		m(n.wish)
	}
}

func wipe(c *v1alpha1.Claim) { c.Wipe = true }

// round runs a new keeper once, as after a start of the agent, and publishes its result unless it was killed.
func (n *node) round() error {
	count := 0
	k := New(Options{StateDir: filepath.Join(n.dir, "state"), DiskDir: n.diskDir(), Devices: n, Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return n.now },
		BeforeStep: func(step string) error {
			n.steps = append(n.steps, step)
			if count++; count == n.stopAt {
				return errKilled
			}
			return nil
		}})
	res, err := k.Reconcile(context.Background(), Input{Name: "bd-1", ObjectUID: n.uid, Wish: n.wish, Acted: n.status.Claim, DiskID: n.status.DiskID, Device: n.device()})
	if !errors.Is(err, errKilled) {
		n.status = res
	}
	return err
}

// settle runs rounds without kills until nothing changes any more.
func (n *node) settle() {
	n.t.Helper()
	n.stopAt, n.writes = 0, 0
	for range 6 {
		n.steps = nil
		if err := n.round(); err != nil {
			n.t.Fatal(err)
		}
		if len(n.steps) == 0 {
			return
		}
	}
	n.t.Fatalf("does not settle: steps %v", n.steps)
}

func (n *node) diskDir() string { return filepath.Join(n.dir, "disks") }
func (n *node) devPath() string { return filepath.Join(n.dir, "machine/dev/sdb") }

func (n *node) entry() *diskdir.Entry {
	entries, errs := diskdir.Entries(n.diskDir())
	if len(errs) > 0 {
		n.t.Fatal(errs)
	}
	if len(entries) == 0 {
		return nil
	}
	return &entries[0]
}

// chunk plays the chunk: formats a blank disk when its entry allows it, and reports.
func (n *node) chunk(state string, replicas int) {
	n.t.Helper()
	if e := n.entry(); e != nil && e.Format {
		n.write(0, signature.Superblock(clusterID, diskID))
	}
	s := diskdir.Status{Name: "bd-1", DiskID: diskText, State: state, Replicas: replicas, UsedBytes: 7, SizeBytes: sizeBytes, Time: n.now}
	if err := diskdir.WriteStatus(n.diskDir(), s); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) write(at int64, b []byte) {
	f, err := os.OpenFile(n.devPath(), os.O_WRONLY, 0)
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, at); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) content() []byte {
	b, err := os.ReadFile(n.devPath())
	if err != nil {
		n.t.Fatal(err)
	}
	return b
}

// OpenExclusive and Lookup make a node the keeper's Devices.
func (n *node) OpenExclusive(d *blockdev.Device) (Disk, error) {
	if n.openErr != nil {
		return nil, n.openErr
	}
	if n.onOpen != nil {
		n.onOpen()
	}
	f, err := os.OpenFile(n.scanner.DevPath(d), os.O_RDWR, 0)
	return &killableDisk{f, n}, err
}

func (n *node) Lookup(context.Context, string) (*blockdev.Device, error) { return n.device(), nil }

type killableDisk struct {
	*os.File
	n *node
}

func (d *killableDisk) RereadPartitions() error { return nil }
func (d *killableDisk) WriteAt(b []byte, at int64) (int, error) {
	if d.n.writes > 0 {
		if d.n.writes--; d.n.writes == 0 {
			return 0, errKilled
		}
	}
	return d.File.WriteAt(b, at)
}

// kills runs a scenario once for every place at which the agent can be killed in one round: each step, and each write to the device.
func kills(t *testing.T, scenario func(t *testing.T, arm func(*node))) {
	t.Run("not killed", func(t *testing.T) { scenario(t, func(*node) {}) })
	for i := 1; i <= 8; i++ {
		t.Run(fmt.Sprintf("killed at step %d", i), func(t *testing.T) { scenario(t, func(n *node) { n.stopAt = i }) })
		t.Run(fmt.Sprintf("killed at write %d", 5*i), func(t *testing.T) { scenario(t, func(n *node) { n.writes = 5 * i }) })
	}
}

func TestAClaimedBlankDiskIsHandedToTheChunk(t *testing.T) {
	kills(t, func(t *testing.T, arm func(*node)) {
		n := newNode(t, blank)
		n.claim()
		arm(n)
		_ = n.round()
		n.settle()
		want := diskdir.Entry{Name: "bd-1", Device: "/dev/sdb", MountType: "dataStoreWithJournal", SizeBytes: sizeBytes, Format: true, ClusterID: clusterText,
			Identity: diskdir.Identity{Serial: "Z1", WWN: "naa.2"}}
		if e := n.entry(); e == nil || *e != want {
			t.Fatalf("entry %+v", e)
		}
		if n.status.ClaimState != v1alpha1.Claimed || n.status.Claim == nil || n.status.Message != "" {
			t.Errorf("status %+v", n.status)
		}
		n.chunk(diskdir.StateActive, 3)
		n.settle()
		if e := n.entry(); e.Format || e.DiskID != diskText {
			t.Errorf("the chunk may still format the disk, or take another one: %+v", e)
		}
		if n.status.DiskID != diskText || n.status.Usage.UsedBytes != 7 || n.status.Health != v1alpha1.DeviceHealthy {
			t.Errorf("status %+v", n.status)
		}
	})
}

func TestAClaimThatAllowsItErasesExactlyWhatItNames(t *testing.T) {
	kills(t, func(t *testing.T, arm func(*node)) {
		n := newNode(t, withBtrfs)
		n.write(50<<20, []byte("file data"))
		n.claim(wipe)
		arm(n)
		_ = n.round()
		n.settle()
		if e := n.entry(); e == nil || !e.Format {
			t.Fatalf("entry %+v, status %+v", e, n.status)
		}
		if d := n.device(); len(d.Signatures) > 0 {
			t.Errorf("left on the disk: %v", d.Signatures)
		}
		if !bytes.Equal(n.content()[50<<20:50<<20+9], []byte("file data")) {
			t.Error("more than the signatures and edges was erased")
		}
	})
}

func TestAKillDuringErasureNeverErasesWhatTheChunkWrote(t *testing.T) {
	kills(t, func(t *testing.T, arm func(*node)) {
		n := newNode(t, withBtrfs)
		n.claim(wipe)
		n.settle()
		n.chunk(diskdir.StateActive, 1)
		n.write(4096, []byte("journal"))
		before := n.content()
		arm(n)
		_ = n.round()
		n.status = Result{} // the object was lost as well
		n.settle()
		if !bytes.Equal(before, n.content()) {
			t.Error("the disk was changed after it was handed over")
		}
	})
}

func TestWhatSpeaksAgainstAClaimStopsIt(t *testing.T) {
	for _, c := range []struct {
		name    string
		text    string
		prepare func(*node)
		want    string
	}{
		{"content that the claim does not allow to erase", withBtrfs, func(n *node) { n.claim() }, "does not allow to erase"},
		{"content that appeared after the plan", blank, func(n *node) { n.claim(wipe); n.write(0, []byte("XFSB")) }, "changed since the claim"},
		{"a file system made anew after the plan", withBtrfs, func(n *node) { n.claim(wipe); n.write(65568, []byte("new-uuid")) }, "changed since the claim"},
		{"another fingerprint", blank, func(n *node) { n.claim(func(c *v1alpha1.Claim) { c.Fingerprint = "h1:other" }) }, "for another device"},
		{"a disk of another cluster", blank, func(n *node) { n.write(0, signature.Superblock([16]byte{9}, diskID)); n.claim() }, "a disk of cluster 09"},
		{"somebody has it open", withBtrfs, func(n *node) { n.claim(wipe); n.openErr = errors.New("device or resource busy") }, "busy"},
		{"the name went to another disk between scan and open", withBtrfs, func(n *node) {
			n.claim(wipe)
			n.onOpen = func() {
				if err := os.WriteFile(filepath.Join(n.dir, "machine/sys/devices/pci/host1/target1/block/sdb/device/serial"), []byte("Z2"), 0o600); err != nil {
					n.t.Fatal(err)
				}
			}
		}, "another device now"},
		{"the kernel attached something else under the name", withBtrfs, func(n *node) {
			n.claim(wipe)
			n.onOpen = func() {
				if err := os.WriteFile(filepath.Join(n.dir, "machine/sys/devices/pci/host1/target1/block/sdb/diskseq"), []byte("5"), 0o600); err != nil {
					n.t.Fatal(err)
				}
			}
		}, "another device meanwhile"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, c.text)
			c.prepare(n)
			before := n.content()
			_ = n.round()
			if !strings.Contains(n.status.Message, c.want) {
				t.Errorf("message %q, want %q", n.status.Message, c.want)
			}
			if n.entry() != nil || n.status.ClaimState != v1alpha1.Unclaimed || n.status.Claim != nil {
				t.Errorf("acted on: entry %v, status %+v", n.entry(), n.status)
			}
			if !bytes.Equal(before, n.content()) {
				t.Error("the disk was written to")
			}
		})
	}
}

func TestAReleasedDiskIsErasedOnceAndNeverAgain(t *testing.T) {
	kills(t, func(t *testing.T, arm func(*node)) {
		n := newNode(t, blank)
		n.claim()
		n.settle()
		n.chunk(diskdir.StateActive, 0)
		n.settle()
		n.wish = nil
		arm(n)
		_ = n.round()
		n.settle()
		if n.entry() != nil || n.status.ClaimState != v1alpha1.Released || !strings.Contains(n.status.Message, "let go") {
			t.Fatalf("before the chunk let go: entry %v, status %+v", n.entry(), n.status)
		}
		n.chunk(diskdir.StateReleased, 0)
		arm(n)
		_ = n.round()
		n.settle()
		if n.status.ClaimState != v1alpha1.Unclaimed || n.status.Claim != nil || n.status.DiskID != "" {
			t.Fatalf("status %+v", n.status)
		}
		if d := n.device(); len(d.Signatures) > 0 {
			t.Fatalf("left on the disk: %v", d.Signatures)
		}
		n.write(0, []byte("XFSB"))
		before := n.content()
		arm(n)
		_ = n.round()
		n.settle()
		if !bytes.Equal(before, n.content()) {
			t.Error("the next owner's file system was erased")
		}
		if left, _ := os.ReadDir(filepath.Join(n.dir, "state/claims")); len(left) > 0 {
			t.Errorf("records left: %v", left)
		}
		if left, _ := os.ReadDir(n.diskDir()); len(left) > 0 {
			t.Errorf("left in the disk directory: %v", left)
		}
	})
}

func TestARetainedDiskKeepsItsContentAndIsReleasedUntilErased(t *testing.T) {
	n := newNode(t, blank)
	n.claim(func(c *v1alpha1.Claim) { c.ReclaimPolicy = v1alpha1.ReclaimRetain })
	n.settle()
	n.chunk(diskdir.StateActive, 0)
	n.settle()
	n.wish = nil
	_ = n.round()
	n.chunk(diskdir.StateReleased, 0)
	n.settle()
	if n.status.ClaimState != v1alpha1.Released || n.device().Signatures == nil {
		t.Fatalf("status %+v", n.status)
	}
	n.write(0, make([]byte, 4096))
	n.settle()
	if n.status.ClaimState != v1alpha1.Unclaimed || n.status.Claim != nil {
		t.Errorf("status %+v", n.status)
	}
}

func TestADeletedObjectIsNoReleasedClaim(t *testing.T) {
	n := newNode(t, blank)
	n.claim()
	n.settle()
	n.chunk(diskdir.StateActive, 3)
	n.settle()
	before := n.content()
	wish := *n.wish
	n.wish, n.status, n.uid = nil, Result{}, "object-2"
	n.settle()
	if n.entry() == nil || !strings.Contains(n.status.Message, "waits to be claimed again") || n.status.ClaimState != v1alpha1.Unclaimed {
		t.Fatalf("entry %v, status %+v", n.entry(), n.status)
	}
	wish.UID, wish.ContentFingerprint = "claim-2", func() string { id := n.device().Identity(); return id.ContentFingerprint() }()
	n.wish = &wish
	n.settle()
	if n.status.ClaimState != v1alpha1.Claimed || n.status.Claim.UID != "claim-2" || n.status.DiskID != diskText || !bytes.Equal(before, n.content()) {
		t.Errorf("status %+v", n.status)
	}
}

func TestALostRecordCostsNoData(t *testing.T) {
	n := newNode(t, blank)
	n.claim()
	n.settle()
	n.chunk(diskdir.StateActive, 3)
	n.settle()
	before := n.content()
	for _, lost := range []string{"state", "disks"} {
		if err := os.RemoveAll(filepath.Join(n.dir, lost)); err != nil {
			t.Fatal(err)
		}
	}
	n.settle()
	if e := n.entry(); e == nil || e.Format || e.DiskID != diskText || !bytes.Equal(before, n.content()) {
		t.Fatalf("entry %+v", e)
	}
	// The same, but another disk's content is there: nothing may be formatted or erased.
	if err := os.RemoveAll(filepath.Join(n.dir, "state")); err != nil {
		t.Fatal(err)
	}
	n.write(0, make([]byte, 4096))
	_ = n.round()
	if !strings.Contains(n.status.Message, "is gone") {
		t.Errorf("status %+v", n.status)
	}
}

func TestADiskOfADeadChunkIsNotTakenAwayWhileItHoldsReplicas(t *testing.T) {
	n := newNode(t, blank)
	n.claim()
	n.settle()
	n.chunk(diskdir.StateActive, 3)
	n.settle()
	n.wish = nil
	_ = n.round()
	if n.entry() != nil {
		t.Fatal("the entry of a living chunk is not removed")
	}
	before := n.content()
	n.now = n.now.Add(time.Hour)
	n.settle()
	if n.entry() == nil || !strings.Contains(n.status.Message, "3 replicas") || !bytes.Equal(before, n.content()) {
		t.Fatalf("entry %v, status %+v", n.entry(), n.status)
	}
	n.chunk(diskdir.StateActive, 0) // back, and drained
	_ = n.round()
	n.chunk(diskdir.StateReleased, 0)
	n.settle()
	if n.status.ClaimState != v1alpha1.Unclaimed {
		t.Errorf("status %+v", n.status)
	}
}

func TestTheEntryFollowsTheKernelsName(t *testing.T) {
	n := newNode(t, blank)
	n.claim()
	n.settle()
	d := n.device()
	d.Path, d.KernelName = "/dev/sdx", "sdx"
	k := New(Options{StateDir: filepath.Join(n.dir, "state"), DiskDir: n.diskDir(), Devices: n, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return n.now }})
	if _, err := k.Reconcile(context.Background(), Input{Name: "bd-1", ObjectUID: n.uid, Wish: n.wish, Acted: n.status.Claim, Device: d}); err != nil {
		t.Fatal(err)
	}
	if e := n.entry(); e.Device != "/dev/sdx" {
		t.Errorf("entry %+v", e)
	}
}
