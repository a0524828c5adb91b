package daemon

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/inventory"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// What a disk does not say has no metric: an alert on a zero would be about nothing.
func TestWhatDisksSayIsServedUnderTheOriginalsNames(t *testing.T) {
	life := int32(12)
	item := func(name string, s *v1alpha1.SmartStatus) inventory.Item {
		return inventory.Item{Name: name, Published: true, Device: &blockdev.Device{Path: "/dev/" + name}, Status: v1alpha1.BlockDeviceStatus{Smart: s}}
	}
	snap := inventory.Snapshot{Time: time.Unix(1, 0), Items: []inventory.Item{
		item("worn", &v1alpha1.SmartStatus{Health: v1alpha1.SmartPassed, SmartSelfTestStatus: v1alpha1.SmartUnknown, LifespanPercentage: &life}),
		item("failing", &v1alpha1.SmartStatus{Health: v1alpha1.SmartFailed, SmartSelfTestStatus: v1alpha1.SmartPassed}),
		item("tested", &v1alpha1.SmartStatus{Health: v1alpha1.SmartUnknown, SmartSelfTestStatus: v1alpha1.SmartFailed}),
		item("mute", &v1alpha1.SmartStatus{Health: v1alpha1.SmartUnknown, SmartSelfTestStatus: v1alpha1.SmartUnknown}),
		item("virtual", nil),
	}}
	c := newDeviceCollector(func() inventory.Snapshot { return snap })
	want := `
# HELP blockdevicemonitor_smart_lifespan_percentage Life that a disk says it has left, in percent.
# TYPE blockdevicemonitor_smart_lifespan_percentage gauge
blockdevicemonitor_smart_lifespan_percentage{device="worn",path="/dev/worn"} 12
# HELP blockdevicemonitor_smart_self_test_status What a disk says of itself: 1 it passes, 2 it, or its last self-test, fails.
# TYPE blockdevicemonitor_smart_self_test_status gauge
blockdevicemonitor_smart_self_test_status{device="failing",path="/dev/failing"} 2
blockdevicemonitor_smart_self_test_status{device="tested",path="/dev/tested"} 2
blockdevicemonitor_smart_self_test_status{device="worn",path="/dev/worn"} 1
`
	if err := testutil.CollectAndCompare(c, strings.NewReader(want), "blockdevicemonitor_smart_lifespan_percentage", "blockdevicemonitor_smart_self_test_status"); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(c, "blockdevicemonitor_blockdevice_info"); n != len(snap.Items) {
		t.Errorf("%d devices, want %d", n, len(snap.Items))
	}
}
