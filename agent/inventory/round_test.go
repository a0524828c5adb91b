package inventory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/blockdev/fakesys"
	"github.com/iomesh/iomesh/agent/eligibility"
	"github.com/iomesh/iomesh/agent/keeper"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// memory is an API server that keeps each field with its writer, as far as rounds need it.
type memory struct {
	cluster *v1alpha1.IOMeshCluster
	objects map[string]*v1alpha1.BlockDevice
	node    string
	writes  []string
	failOn  string
	uids    int
}

func (m *memory) write(what string) error {
	if m.failOn != "" && strings.Contains(what, m.failOn) {
		return errors.New("connection refused")
	}
	m.writes = append(m.writes, what)
	return nil
}

func (m *memory) Cluster(context.Context) (*v1alpha1.IOMeshCluster, error) { return m.cluster, nil }
func (m *memory) Devices(context.Context) ([]v1alpha1.BlockDevice, error) {
	var out []v1alpha1.BlockDevice
	for _, o := range m.objects {
		if o.Spec.Node == m.node {
			out = append(out, *o.DeepCopy())
		}
	}
	return out, nil
}
func (m *memory) Device(_ context.Context, name string) (*v1alpha1.BlockDevice, error) {
	return m.objects[name].DeepCopy(), nil
}
func (m *memory) ApplyDevice(_ context.Context, bd *v1alpha1.BlockDevice) (*v1alpha1.BlockDevice, error) {
	if err := m.write("spec " + bd.Spec.Path); err != nil {
		return nil, err
	}
	have := m.objects[bd.Name]
	if have == nil {
		m.uids++
		have = &v1alpha1.BlockDevice{ObjectMeta: metav1.ObjectMeta{Name: bd.Name, UID: types.UID(fmt.Sprint("uid-", m.uids))}}
		m.objects[bd.Name] = have
	}
	claim := have.Spec.Claim
	have.Spec, have.Labels = bd.Spec, bd.Labels
	have.Spec.Claim = claim
	return have.DeepCopy(), nil
}
func (m *memory) ApplyDeviceStatus(_ context.Context, name string, st v1alpha1.BlockDeviceStatus) error {
	if err := m.write("status " + m.objects[name].Spec.Path); err != nil {
		return err
	}
	m.objects[name].Status = st
	return nil
}
func (m *memory) ApplyHost(_ context.Context, cluster string, h v1alpha1.HostStatus) error {
	if err := m.write("host " + h.Node); err != nil {
		return err
	}
	m.cluster.Status.Hosts = []v1alpha1.HostStatus{h}
	return nil
}

// obedient is a keeper that does at once what it is told.
type obedient struct{ inputs map[string]keeper.Input }

func (o *obedient) Reconcile(_ context.Context, in keeper.Input) (keeper.Result, error) {
	o.inputs[in.Name] = in
	if in.Wish != nil {
		return keeper.Result{ClaimState: v1alpha1.Claimed, Claim: in.Wish, Usage: &v1alpha1.DeviceUsage{UsedBytes: 1}}, nil
	}
	return keeper.Result{ClaimState: v1alpha1.Unclaimed}, nil
}
func (o *obedient) Known() ([]string, error) { return nil, nil }

type bench struct {
	t    *testing.T
	api  *memory
	keep *obedient
	now  time.Time
	text string
	n    int
	inv  *Inventory
}

func newBench(t *testing.T, text string) *bench {
	b := &bench{t: t, text: text, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC), keep: &obedient{map[string]keeper.Input{}},
		api: &memory{node: "worker-1", objects: map[string]*v1alpha1.BlockDevice{},
			cluster: &v1alpha1.IOMeshCluster{ObjectMeta: metav1.ObjectMeta{Name: "iomesh"}, Spec: v1alpha1.IOMeshClusterSpec{
				Devices: &v1alpha1.DevicesSpec{LoopBackingFiles: map[string]v1alpha1.LoopFiles{"worker-1": {"/disks/a.img"}, "worker-2": {"/disks/b.img"}}}}}}}
	b.inv = New(Options{Node: "worker-1", Namespace: "iomesh-system", API: b.api, Scanner: b, Keeper: b.keep, Now: func() time.Time { return b.now },
		Policy: eligibility.Policy{MinDiskBytes: 60e9, MinLoopBytes: 1 << 30}, Log: slog.New(slog.DiscardHandler),
		Host: func(v1alpha1.AttachMode) v1alpha1.HostStatus {
			return v1alpha1.HostStatus{Addresses: []string{"10.0.0.1"}}
		}})
	return b
}

// Scan builds the machine of the current text.
func (b *bench) Scan(ctx context.Context) ([]*blockdev.Device, error) {
	b.n++
	s, err := fakesys.Build(filepath.Join(b.t.TempDir(), fmt.Sprint(b.n)), b.text, "worker-1")
	if err != nil {
		b.t.Fatal(err)
	}
	return s.Scan(ctx)
}

func (b *bench) round() {
	b.t.Helper()
	b.api.writes = nil
	if err := b.inv.Round(context.Background()); err != nil {
		b.t.Fatal(err)
	}
}

// at returns the object of the device with this path.
func (b *bench) at(path string) *v1alpha1.BlockDevice {
	for _, o := range b.api.objects {
		if o.Spec.Path == path {
			return o
		}
	}
	return nil
}

const machine = `
device sdb pci/host1/target1/block/sdb
dev 8:16
size 100GiB
queue/rotational 0
device/vendor ACME Corp
device/wwid naa.2
device/serial Z/1
device loop1 virtual/block/loop1
dev 7:1
size 8GiB
loop/backing_file /disks/a.img
device loop2 virtual/block/loop2
dev 7:2
size 8GiB
loop/backing_file /disks/b.img
device zram0 virtual/block/zram0
dev 253:0
size 1GiB
`

func TestARoundPublishesDisksAndListedLoopDevices(t *testing.T) {
	b := newBench(t, machine)
	b.round()
	if len(b.api.objects) != 2 || b.at("/dev/sdb") == nil || b.at("/dev/loop1") == nil {
		t.Fatalf("published %v", b.api.writes)
	}
	bd := b.at("/dev/sdb")
	want := map[string]string{"iomesh.com/bd-devicePath": "sdb", "iomesh.com/bd-deviceType": "disk", "iomesh.com/bd-driverType": "SSD",
		"iomesh.com/bd-serial": "Z-1", "iomesh.com/bd-vendor": "ACME-Corp", "iomesh.com/node": "worker-1"}
	for k, v := range want {
		if bd.Labels[k] != v {
			t.Errorf("label %s = %q, want %q", k, bd.Labels[k], v)
		}
	}
	if !bd.Status.Eligible || bd.Status.State != v1alpha1.DeviceActive || bd.Status.ClaimState != v1alpha1.Unclaimed {
		t.Errorf("status %+v", bd.Status)
	}
	if got := len(b.inv.Snapshot().Items); got != 4 {
		t.Errorf("the agent shows %d devices on request, want all 4", got)
	}
}

func TestNothingIsWrittenWhileNothingChanges(t *testing.T) {
	b := newBench(t, machine)
	b.round()
	b.now = b.now.Add(3 * time.Minute)
	b.round()
	if len(b.api.writes) > 0 {
		t.Errorf("after 3 minutes: %v", b.api.writes)
	}
	b.now = b.now.Add(2 * time.Minute)
	b.round()
	slices.Sort(b.api.writes)
	if got := strings.Join(b.api.writes, ", "); got != "host worker-1, status /dev/loop1, status /dev/sdb" {
		t.Errorf("after 5 minutes: %s", got)
	}
}

func TestADeviceThatIsGoneBecomesInactiveAndItsObjectStays(t *testing.T) {
	b := newBench(t, machine)
	b.round()
	seen := b.at("/dev/sdb").Status.LastSeen
	b.text = machine[strings.Index(machine, "device loop1"):]
	b.now = b.now.Add(time.Minute)
	b.round()
	st := b.at("/dev/sdb").Status
	if st.State != v1alpha1.DeviceInactive || st.Eligible || !st.LastSeen.Equal(seen) {
		t.Errorf("status %+v", st)
	}
	b.text = strings.ReplaceAll(machine, "sdb", "sdq")
	b.round()
	if bd := b.at("/dev/sdq"); bd == nil || bd.Status.State != v1alpha1.DeviceActive || b.at("/dev/sdb") != nil {
		t.Error("the device came back under another kernel name and is another object")
	}
}

func TestAClaimedDeviceIsNotEligibleAndItsKeeperKnowsWhatBlocks(t *testing.T) {
	b := newBench(t, machine+"mount 8:16 /data ext4 /dev/sdb\n")
	b.round()
	bd := b.at("/dev/sdb")
	bd.Spec.Claim = &v1alpha1.Claim{UID: "c", ClusterRef: v1alpha1.ClusterRef{Name: "iomesh"}, MountType: v1alpha1.DataStore}
	b.round()
	if st := b.at("/dev/sdb").Status; st.Eligible || st.Reasons[0].Code != v1alpha1.ReasonClaimed || st.Claim == nil {
		t.Errorf("status %+v", st)
	}
	if in := b.keep.inputs[bd.Name]; len(in.Blocked) != 1 || in.Blocked[0].Code != eligibility.Mounted {
		t.Errorf("blocked by %v", in.Blocked)
	}
}

func TestADiskThatAnotherNodeHasTooIsMarkedAndOneThatMovedIsTaken(t *testing.T) {
	for _, c := range []struct {
		name  string
		other v1alpha1.BlockDeviceStatus
		moved bool
	}{
		{"the other agent sees it now", v1alpha1.BlockDeviceStatus{State: v1alpha1.DeviceActive, LastSeen: &metav1.Time{Time: time.Date(2026, 11, 21, 11, 57, 0, 0, time.UTC)}}, false},
		{"the other agent says it is gone", v1alpha1.BlockDeviceStatus{State: v1alpha1.DeviceInactive, LastSeen: &metav1.Time{Time: time.Date(2026, 11, 21, 11, 59, 0, 0, time.UTC)}}, true},
		{"the other agent is silent", v1alpha1.BlockDeviceStatus{State: v1alpha1.DeviceActive, LastSeen: &metav1.Time{Time: time.Date(2026, 11, 21, 11, 0, 0, 0, time.UTC)}}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, machine)
			b.round()
			own := b.at("/dev/sdb").Name
			b = newBench(t, machine)
			b.api.objects[own] = &v1alpha1.BlockDevice{ObjectMeta: metav1.ObjectMeta{Name: own}, Spec: v1alpha1.BlockDeviceSpec{Node: "worker-2", Path: "/dev/sdz"}, Status: c.other}
			b.round()
			bd := b.at("/dev/sdb")
			if moved := bd.Name == own; moved != c.moved {
				t.Fatalf("object %s taken over: %v", own, moved)
			}
			if !c.moved && (bd.Status.Eligible || bd.Status.Reasons[0].Code != eligibility.DuplicateIdentity) {
				t.Errorf("status %+v", bd.Status)
			}
		})
	}
}

func TestOneDeviceThatCannotBePublishedHindersNoOther(t *testing.T) {
	b := newBench(t, machine)
	b.api.failOn = "sdb"
	err := b.inv.Round(context.Background())
	if err == nil || !strings.Contains(err.Error(), "/dev/sdb") {
		t.Errorf("error %v does not name the device", err)
	}
	if b.at("/dev/loop1") == nil {
		t.Error("the other device was not published")
	}
	if b.inv.Snapshot().Error == "" {
		t.Error("the agent does not say on request that its round failed")
	}
}

func TestLabelValuesAreValid(t *testing.T) {
	for in, want := range map[string]string{"": "", "sdb": "sdb", "mapper/a b": "mapper-a-b", " x_": "x", "ü": "", strings.Repeat("a", 70): strings.Repeat("a", 63)} {
		if got := LabelValue(in); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
