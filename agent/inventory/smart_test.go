package inventory

import (
	"slices"
	"testing"
	"time"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/smart"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

func TestADiskThatReportsItsFailureIsFailingAndNotGivenAway(t *testing.T) {
	life := int32(3)
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name     string
		have     v1alpha1.BlockDeviceStatus
		said     *smart.Finding
		health   v1alpha1.DeviceHealth
		eligible bool
		first    string
	}{
		{"says nothing", v1alpha1.BlockDeviceStatus{Health: v1alpha1.DeviceHealthUnknown, Eligible: true}, nil, v1alpha1.DeviceHealthUnknown, true, ""},
		{"is well", v1alpha1.BlockDeviceStatus{Health: v1alpha1.DeviceHealthUnknown, Eligible: true}, &smart.Finding{Report: smart.Report{Verdict: smart.Passed, LifeLeft: &life}, At: at},
			v1alpha1.DeviceHealthy, true, ""},
		{"is well, but the chunk finds it slow", v1alpha1.BlockDeviceStatus{Health: v1alpha1.DeviceUnhealthy}, &smart.Finding{Report: smart.Report{Verdict: smart.Passed}, At: at},
			v1alpha1.DeviceUnhealthy, false, ""},
		{"expects to fail", v1alpha1.BlockDeviceStatus{Health: v1alpha1.DeviceHealthUnknown, Eligible: true},
			&smart.Finding{Report: smart.Report{Verdict: smart.Failed, Reasons: []string{"spare blocks run out"}}, At: at}, v1alpha1.DeviceFailing, false, v1alpha1.ReasonFailing},
		{"in use, its self-test failed", v1alpha1.BlockDeviceStatus{Health: v1alpha1.DeviceHealthy, Reasons: []v1alpha1.Reason{{Code: v1alpha1.ReasonClaimed}}},
			&smart.Finding{Report: smart.Report{Verdict: smart.Passed, SelfTest: smart.Failed}, At: at}, v1alpha1.DeviceFailing, false, v1alpha1.ReasonFailing},
	} {
		st := c.have
		judgeSmart(&st, smartStatus(c.said))
		first := ""
		if len(st.Reasons) > 0 && st.Reasons[0].Code != v1alpha1.ReasonClaimed {
			first = st.Reasons[0].Code
		}
		if st.Health != c.health || st.Eligible != c.eligible || first != c.first || (st.Smart == nil) != (c.said == nil) {
			t.Errorf("%s: %s, eligible %t, first reason %q: %+v", c.name, st.Health, st.Eligible, first, st.Smart)
		}
	}
}

// told is what disks say in a test.
type told struct{ finding *smart.Finding }

func (*told) See([]*blockdev.Device) {}

func (s *told) Of(d *blockdev.Device, _ []*blockdev.Device) *smart.Finding {
	if d.KernelName == "sdb" {
		return s.finding
	}
	return nil
}

func TestAReportIsPublishedWhenItSaysSomethingNew(t *testing.T) {
	b := newBench(t, machine)
	said := &told{&smart.Finding{Report: smart.Report{Verdict: smart.Passed}, At: b.now}}
	b.inv.opts.Smart = said
	wrote := func() bool {
		b.round()
		return slices.Contains(b.api.writes, "status /dev/sdb")
	}
	if !wrote() {
		t.Fatalf("writes: %q", b.api.writes)
	}
	said.finding = &smart.Finding{Report: said.finding.Report, At: b.now.Add(time.Hour)}
	if wrote() {
		t.Error("an equal report of a later time is written")
	}
	said.finding = &smart.Finding{Report: smart.Report{Verdict: smart.Failed, Reasons: []string{"it is read-only"}}, At: b.now}
	if !wrote() {
		t.Error("a failure is not written")
	}
	for _, o := range b.api.objects {
		failing := slices.ContainsFunc(o.Status.Reasons, func(r v1alpha1.Reason) bool { return r.Code == v1alpha1.ReasonFailing })
		if failing != (o.Spec.Path == "/dev/sdb") {
			t.Errorf("%s: %+v", o.Spec.Path, o.Status)
		}
	}
}
