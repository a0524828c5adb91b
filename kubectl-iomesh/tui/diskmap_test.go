package tui

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/api/v1alpha1"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func disk(name, node, path string, reasons ...string) v1alpha1.BlockDevice {
	d := v1alpha1.BlockDevice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.BlockDeviceSpec{Node: node, Path: path,
		Identity: v1alpha1.Identity{SizeBytes: 1 << 40, DriveType: v1alpha1.DriveSSD, Model: "SSDPE2KX", Vendor: "INTEL", Serial: "S-" + name}}, Status: v1alpha1.BlockDeviceStatus{State: v1alpha1.DeviceActive, Eligible: len(reasons) == 0}}
	for _, r := range reasons {
		d.Status.Reasons = append(d.Status.Reasons, v1alpha1.Reason{Code: "X", Message: r})
	}
	return d
}

func machines() []v1alpha1.BlockDevice {
	used := disk("bd-0", "n1", "/dev/sdc", "belongs to cluster iomesh")
	used.Spec.Claim = &v1alpha1.Claim{ClusterRef: v1alpha1.ClusterRef{UID: "u"}, MountType: v1alpha1.DataStoreWithJournal}
	used.Labels = map[string]string{"iomesh.com/disk-map": "dataStoreWithJournal"}
	gone := disk("bd-9", "n3", "/dev/sdd", "the device is not there any more")
	gone.Status.State = v1alpha1.DeviceInactive
	return []v1alpha1.BlockDevice{disk("bd-3", "n3", "/dev/sdb"), disk("bd-1", "n1", "/dev/sdb"), disk("bd-2", "n2", "/dev/sdb"), used, gone,
		disk("bd-8", "n2", "/dev/sda", "the machine's / is on it", "has 3 partitions")}
}

// mapped is the cluster of the machines.
func mapped() *v1alpha1.IOMeshCluster {
	return &v1alpha1.IOMeshCluster{ObjectMeta: metav1.ObjectMeta{Name: "iomesh", Namespace: "iomesh-system", UID: "u"}, Spec: v1alpha1.IOMeshClusterSpec{DiskDeploymentMode: v1alpha1.AllFlash}}
}

func model(t *testing.T, width, height int) *DiskMap {
	t.Helper()
	m := NewDiskMap(context.Background(), mapped(), func(context.Context) ([]v1alpha1.BlockDevice, error) { return machines(), nil }, func() time.Time { return now })
	m.Update(tea.WindowSizeMsg{Width: width, Height: height})
	m.Update(m.read())
	return m
}

func press(m *DiskMap, keys ...string) (quit bool) {
	for _, k := range keys {
		msg := tea.KeyPressMsg{Text: k, Code: []rune(k)[0]}
		switch k {
		case "down":
			msg = tea.KeyPressMsg{Code: tea.KeyDown}
		case "enter":
			msg = tea.KeyPressMsg{Code: tea.KeyEnter}
		case "space":
			msg = tea.KeyPressMsg{Code: tea.KeySpace, Text: " "}
		}
		_, cmd := m.Update(msg)
		if cmd != nil {
			if _, ok := cmd().(tea.QuitMsg); ok {
				return true
			}
		}
	}
	return false
}

// loseServer is the API server that goes away after a choice was made, which must not be planned then.
func loseServer(m *DiskMap) {
	press(m, "a")
	m.now = func() time.Time { return now.Add(42 * time.Second) }
	m.Update(devicesRead{err: errors.New("dial tcp 10.0.0.1:6443: connect: connection refused")})
	press(m, "enter")
}

// failDisks: of the disks in use one fails and one has gone, and one that was chosen fails too.
func failDisks(m *DiskMap) {
	press(m, "a")
	devices := machines()
	used := &devices[3]
	used.Status.Health, used.Status.Reasons[0].Message = v1alpha1.DeviceFailing, "self-assessment failed: 2064 sectors were reallocated"
	lost := disk("bd-7", "n2", "/dev/sdc", "the device is not there any more")
	lost.Spec.Claim, lost.Labels, lost.Status.State = used.Spec.Claim, used.Labels, v1alpha1.DeviceInactive
	devices[0].Status.Eligible, devices[0].Status.Health = false, v1alpha1.DeviceFailing
	devices[0].Status.Reasons = []v1alpha1.Reason{{Code: "Failing", Message: "self-assessment failed: no spare blocks are left"}}
	m.Update(devicesRead{devices: append(devices, lost)})
}

func TestScreens(t *testing.T) {
	for _, c := range []struct {
		name          string
		width, height int
		act           func(*DiskMap)
	}{
		{"start-80x24", 80, 24, func(*DiskMap) {}},
		{"chosen-80x24", 80, 24, func(m *DiskMap) { press(m, "a", "down") }},
		{"chosen-200x60", 200, 60, func(m *DiskMap) { press(m, "a") }},
		{"refused-80x24", 80, 24, func(m *DiskMap) { press(m, "down", "down", "space") }},
		{"eligible-only-60x12", 60, 12, func(m *DiskMap) { press(m, "e", "space") }},
		{"help-80x24", 80, 24, func(m *DiskMap) { press(m, "?") }},
		{"hybrid-80x24", 80, 24, func(m *DiskMap) { press(m, "m", "space") }},
		{"stale-80x24", 80, 24, loseServer},
		{"stale-200x60", 200, 60, loseServer},
		{"failed-80x24", 80, 24, failDisks},
		{"failed-200x60", 200, 60, failDisks},
		{"too-small-40x10", 40, 10, func(*DiskMap) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := model(t, c.width, c.height)
			c.act(m)
			golden(t, c.name, m.Render(), c.width, c.height)
		})
	}
}

func TestEnterReturnsTheChoice(t *testing.T) {
	m := model(t, 80, 24)
	if press(m, "enter") {
		t.Fatal("left without a choice")
	}
	if !press(m, "space", "enter") {
		t.Fatal("did not leave")
	}
	r := m.Result()
	if !r.Done || !slices.Equal(r.Choice.Devices, []string{"bd-1"}) || r.Choice.MountType != v1alpha1.DataStoreWithJournal {
		t.Errorf("result %+v", r)
	}
	if want := "kubectl iomesh disk map -n iomesh-system --mount-type dataStoreWithJournal --device bd-1 --confirm iomesh"; m.CommandLine() != want {
		t.Errorf("command line %q", m.CommandLine())
	}
}

func TestLeavingChoosesNothing(t *testing.T) {
	m := model(t, 80, 24)
	if !press(m, "a", "q") || m.Result().Done {
		t.Error("q did not leave, or left with a choice")
	}
}

func TestAChosenDiskThatChangesLeavesTheChoice(t *testing.T) {
	m := model(t, 80, 24)
	press(m, "a")
	changed := machines()
	changed[1].Status.Eligible = false
	m.Update(devicesRead{devices: changed})
	if m.chosen["bd-1"] || len(m.chosen) != 2 || m.message == "" {
		t.Errorf("chosen %v, message %q", m.chosen, m.message)
	}
}

func TestTheCursorStaysOnItsDisk(t *testing.T) {
	m := model(t, 80, 24)
	press(m, "down", "down", "down")
	at := m.current().Name
	m.Update(devicesRead{devices: append([]v1alpha1.BlockDevice{disk("bd-new", "n0", "/dev/sda")}, machines()...)})
	if m.current().Name != at {
		t.Errorf("cursor went from %s to %s", at, m.current().Name)
	}
}

func TestALongListScrolls(t *testing.T) {
	m := model(t, 80, 24)
	var many []v1alpha1.BlockDevice
	for i := range 100 {
		many = append(many, disk(fmt.Sprintf("bd-%03d", i), "n1", fmt.Sprintf("/dev/d%03d", i)))
	}
	m.Update(devicesRead{devices: many})
	press(m, "G")
	if s := ansi.Strip(m.Render()); !strings.Contains(s, "/dev/d099") {
		t.Error("the last disk is not on the screen")
	}
}

func TestReadingByKeyAddsNoRowOfReads(t *testing.T) {
	m := model(t, 80, 24)
	first := tick{m.turn}
	m.Update(m.read()) // what r does
	if _, cmd := m.Update(first); cmd != nil {
		t.Error("the turn of the read before still reads")
	}
	if _, cmd := m.Update(tick{m.turn}); cmd == nil {
		t.Error("the last turn does not read")
	}
}
