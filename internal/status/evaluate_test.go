package status

import (
	"errors"
	"strings"
	"testing"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

var now = time.Unix(1_800_000_000, 0)

func healthy() Facts {
	return Facts{
		Now: now, Read: now,
		Meta:  []Member{{Name: "a", Healthy: true}, {Name: "b", Healthy: true}, {Name: "c", Healthy: true}},
		Nodes: []Node{{Name: "n1", Online: true}, {Name: "n2", Online: true}, {Name: "n3", Online: true}},
		Disks: []Disk{{Name: "d1", Node: "n1"}, {Name: "d2", Node: "n2"}, {Name: "d3", Node: "n3"}},
		Space: Space{TotalBytes: 100, UsedBytes: 10}, Components: []Component{{Name: "redirector", Node: "n1", Up: true}},
	}
}

func TestEvaluate(t *testing.T) {
	for _, c := range []struct {
		name  string
		edit  func(*Facts)
		state State
		code  Code
		text  string
	}{
		{"one of three members away: no other may go", func(f *Facts) { f.Meta[1].Healthy = false }, AtRisk, MetaMemberDown, "start storaged meta on b"},
		{"nobody answers: what fails now is not made good", func(f *Facts) { f.Silent, f.SilentWhy = true, "connection refused" }, AtRisk, MetadataSilent, "connection refused"},
		{"an old answer", func(f *Facts) { f.Read = now.Add(-time.Minute) }, Degraded, Stale, "ask again"},
		{"a node that sees another not", func(f *Facts) { f.Nodes[0].Unreachable = []string{"n2"} }, Degraded, NodeUnreachable, "storage network"},
		{"a node that Kubernetes gave up", func(f *Facts) { f.Nodes[0].NotReady = true }, Degraded, NodeNotReady, "kubectl describe node n1"},
		{"a clock behind by a minute", func(f *Facts) { f.Nodes[2].ClockSkew = -time.Minute }, Degraded, ClockSkew, "timedatectl"},
		{"a certificate that ends in a week", func(f *Facts) { f.Nodes[1].CertificateExpires = now.Add(7 * 24 * time.Hour) }, Degraded, CertificateExpiring, "168h"},
		{"a certificate that ended", func(f *Facts) { f.Meta[0].CertificateExpires = now.Add(-time.Second) }, AtRisk, CertificateExpired, "has expired"},
		{"a refused login a minute ago", func(f *Facts) { f.Nodes[0].LoginRefused = now.Add(-time.Minute) }, Degraded, LoginsRefused, "CHAP"},
		{"a disk that fell out", func(f *Facts) { f.Disks[0].State = DiskHasFailed }, Degraded, DiskFailed, "n1/d1 (failed)"},
		{"a disk with an error a minute ago", func(f *Facts) { f.Disks[0].LastError, f.Disks[0].ChecksumErrors = now.Add(-time.Minute), 3 }, Degraded, DiskErrors, "3 checksum"},
		{"a slow disk", func(f *Facts) { f.Disks[0].Latency = 2 * time.Second }, Degraded, DiskSlow, "takes 2s"},
		{"a worn disk", func(f *Facts) { f.Disks[0].LifeKnown, f.Disks[0].LifeLeftPercent = true, 5 }, Degraded, DiskWearing, "5 %"},
		{"a pool almost full", func(f *Facts) { f.Space.UsedBytes = 95 }, Degraded, PoolFull, "95 % full"},
		{"a redirector that is down", func(f *Facts) { f.Components[0].Up = false }, Degraded, ComponentDown, "redirector on n1 is not up"},
		{"a pool filling up is no fault yet", func(f *Facts) { f.Space.UsedBytes = 85 }, OK, PoolFilling, "add disks"},
		{"a disk being drained is no fault", func(f *Facts) { f.Disks[0].State = DiskIsDraining }, OK, DiskDraining, "drained"},
		{"an error an hour ago is history", func(f *Facts) { f.Disks[0].LastError = now.Add(-time.Hour) }, OK, "", ""},
	} {
		f := healthy()
		c.edit(&f)
		v := Evaluate(f)
		if v.State != c.state {
			t.Errorf("%s: %s, want %s (%s)", c.name, v.State, c.state, v.Reason())
		}
		if c.code == "" {
			if len(v.Findings) > 0 {
				t.Errorf("%s: finds %v", c.name, v.Findings)
			}
			continue
		}
		if len(v.Findings) == 0 || v.Findings[0].Code != c.code {
			t.Errorf("%s: finds %v, want %s first", c.name, v.Findings, c.code)
			continue
		}
		if text := v.Reason() + "|" + v.NextStep() + "|" + strings.Join(v.Findings[0].Evidence, "|"); !strings.Contains(text, c.text) {
			t.Errorf("%s: %q does not say %q", c.name, text, c.text)
		}
	}
	if v := Evaluate(healthy()); v.State != OK || len(v.Findings) != 0 {
		t.Errorf("healthy: %s %v", v.State, v.Findings)
	}
}

func TestMissingDisksOfAnOfflineNodeAreNoCausesOfTheirOwn(t *testing.T) {
	f := healthy()
	f.Nodes[0].Online, f.Disks[0].State = false, DiskIsMissing
	v := Evaluate(f)
	if len(v.Findings) != 1 || v.Findings[0].Code != NodeOffline {
		t.Errorf("%v", v.Findings)
	}
}

func TestAnAnswerSurvivesTheWire(t *testing.T) {
	f := healthy()
	f.Nodes[1].Online = false
	f.Volumes = []VolumeState{{Name: "v", State: AtRisk, Reason: "missing on n2"}}
	v := Evaluate(f)
	st := &storagedv1.ClusterStatus{Health: v.State.Wire(), Reason: v.Reason(), NextStep: v.NextStep(), Findings: v.Wire()}
	again := Evaluate(FromStatus(st, "", now, now))
	if again.State != v.State || again.Reason() != v.Reason() || again.NextStep() != v.NextStep() {
		t.Errorf("%s %q became %s %q", v.State, v.Reason(), again.State, again.Reason())
	}
	// A leader that knows no findings still counts.
	st.Findings = nil
	if again := Evaluate(FromStatus(st, "", now, now)); again.State != AtRisk || again.Reason() != v.Reason() {
		t.Errorf("without findings: %s %q", again.State, again.Reason())
	}
	if silent := Evaluate(FromStatus(nil, errors.New("refused").Error(), now.Add(-time.Minute), now)); silent.State != AtRisk || !silent.Findings[0].Stale {
		t.Errorf("silent: %+v", silent)
	}
}

func TestStatesOnTheWire(t *testing.T) {
	for _, s := range States() {
		if back, known := Of(s.Wire()); back != s || !known {
			t.Errorf("%s became %s", s, back)
		}
	}
	if _, known := Of(0); known {
		t.Error("no state is taken for one")
	}
	if s, _ := Of(99); s != Unavailable {
		t.Errorf("an unknown state is %s", s)
	}
}
