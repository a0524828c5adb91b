package status

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

// A generator of arbitrary facts: any combination, also senseless ones.
func arbitrary(r *rand.Rand) Facts {
	now := time.Unix(1_800_000_000, 0)
	some := func(n int) int { return r.IntN(n) }
	moment := func() time.Time {
		switch some(4) {
		case 0:
			return time.Time{}
		case 1:
			return now.Add(time.Duration(some(100)) * time.Hour)
		}
		return now.Add(-time.Duration(some(4000)) * time.Second)
	}
	f := Facts{Now: now, Read: moment(), Silent: some(5) == 0, Space: Space{TotalBytes: uint64(some(200)), UsedBytes: uint64(some(200)), LargestNodeBytes: uint64(some(9)), FreeElsewhereBytes: uint64(some(9))}}
	for i := range some(6) {
		f.Meta = append(f.Meta, Member{Name: fmt.Sprint("m", i), Healthy: some(4) != 0, CertificateExpires: moment()})
	}
	for i := range some(5) {
		n := Node{Name: fmt.Sprint("n", i), Online: some(4) != 0, Maintenance: some(5) == 0, LastSeen: moment(), CertificateExpires: moment(), LoginRefused: moment(), NotReady: some(5) == 0,
			ClockSkew: time.Duration(some(4)-2) * time.Second}
		if some(5) == 0 {
			n.Unreachable = []string{"n9"}
		}
		f.Nodes = append(f.Nodes, n)
	}
	for i := range some(7) {
		f.Disks = append(f.Disks, Disk{Name: fmt.Sprint("d", i), Node: fmt.Sprint("n", some(6)), State: DiskState(some(6)), LastError: moment(), Latency: time.Duration(some(900)) * time.Millisecond,
			LifeKnown: some(2) == 0, LifeLeftPercent: some(101), SelfTestFailed: some(9) == 0})
	}
	for i := range some(6) {
		f.Volumes = append(f.Volumes, VolumeState{Name: fmt.Sprint("v", i), State: State(some(4))})
	}
	for i := range some(4) {
		f.Components = append(f.Components, Component{Name: fmt.Sprint("c", i), Up: some(3) != 0})
	}
	if some(4) == 0 {
		f.Given = append(f.Given, Finding{Code: Codes()[some(len(Codes()))], State: State(some(4)), Reason: "given"})
	}
	return f
}

// faults make facts worse, each in one place.
var faults = map[string]func(*rand.Rand, *Facts){
	"the leader falls silent": func(_ *rand.Rand, f *Facts) { f.Silent = true },
	"the answer gets old":     func(_ *rand.Rand, f *Facts) { f.Read = f.Now.Add(-time.Hour) },
	"a member goes":           func(r *rand.Rand, f *Facts) { each(r, f.Meta, func(m *Member) { m.Healthy = false }) },
	"a certificate of meta": func(r *rand.Rand, f *Facts) {
		each(r, f.Meta, func(m *Member) { m.CertificateExpires = f.Now.Add(-1) })
	},
	"a certificate of a chunk": func(r *rand.Rand, f *Facts) { each(r, f.Nodes, func(n *Node) { n.CertificateExpires = f.Now.Add(-1) }) },
	"a node goes":              func(r *rand.Rand, f *Facts) { each(r, f.Nodes, func(n *Node) { n.Online = false }) },
	"a node is not ready":      func(r *rand.Rand, f *Facts) { each(r, f.Nodes, func(n *Node) { n.NotReady = true }) },
	"a node is cut off": func(r *rand.Rand, f *Facts) {
		each(r, f.Nodes, func(n *Node) { n.Unreachable = append(n.Unreachable, "x") })
	},
	"a clock goes wrong": func(r *rand.Rand, f *Facts) { each(r, f.Nodes, func(n *Node) { n.ClockSkew = time.Minute }) },
	"a login is refused": func(r *rand.Rand, f *Facts) { each(r, f.Nodes, func(n *Node) { n.LoginRefused = f.Now }) },
	"a node rests":       func(r *rand.Rand, f *Facts) { each(r, f.Nodes, func(n *Node) { n.Maintenance = true }) },
	"a disk fails": func(r *rand.Rand, f *Facts) {
		each(r, f.Disks, func(d *Disk) {
			if d.State != DiskIsRemoved && d.State != DiskIsDrained {
				d.State = DiskHasFailed
			}
		})
	},
	"a disk errs":  func(r *rand.Rand, f *Facts) { each(r, f.Disks, func(d *Disk) { d.LastError = f.Now }) },
	"a disk slows": func(r *rand.Rand, f *Facts) { each(r, f.Disks, func(d *Disk) { d.Latency += time.Second }) },
	"a disk wears": func(r *rand.Rand, f *Facts) {
		each(r, f.Disks, func(d *Disk) { d.LifeKnown, d.LifeLeftPercent = true, 1 })
	},
	"a test fails":   func(r *rand.Rand, f *Facts) { each(r, f.Disks, func(d *Disk) { d.SelfTestFailed = true }) },
	"the pool fills": func(_ *rand.Rand, f *Facts) { f.Space.UsedBytes = 2 * f.Space.TotalBytes },
	"room goes":      func(_ *rand.Rand, f *Facts) { f.Space.FreeElsewhereBytes = 0 },
	"a volume sickens": func(r *rand.Rand, f *Facts) {
		each(r, f.Volumes, func(v *VolumeState) { v.State = min(v.State+1, Unavailable) })
	},
	"a volume more":    func(_ *rand.Rand, f *Facts) { f.Volumes = append(f.Volumes, VolumeState{Name: "z", State: AtRisk}) },
	"a component goes": func(r *rand.Rand, f *Facts) { each(r, f.Components, func(c *Component) { c.Up = false }) },
	"somebody reports": func(r *rand.Rand, f *Facts) {
		f.Given = append(f.Given, Finding{Code: Reported, State: State(r.IntN(4))})
	},
}

func each[T any](r *rand.Rand, list []T, f func(*T)) {
	if len(list) > 0 {
		f(&list[r.IntN(len(list))])
	}
}

func (f Facts) copied() Facts {
	f.Meta = append([]Member{}, f.Meta...)
	f.Nodes = append([]Node{}, f.Nodes...)
	f.Disks = append([]Disk{}, f.Disks...)
	f.Volumes = append([]VolumeState{}, f.Volumes...)
	f.Components = append([]Component{}, f.Components...)
	f.Given = append([]Finding{}, f.Given...)
	return f
}

func TestAFaultMoreNeverMakesTheStateBetter(t *testing.T) {
	for seed := range uint64(1000) {
		r := rand.New(rand.NewPCG(seed, 7))
		f := arbitrary(r)
		before := Evaluate(f.copied())
		for name, fault := range faults {
			g := f.copied()
			fault(r, &g)
			if after := Evaluate(g); after.State < before.State {
				t.Fatalf("seed %d, %s: %s became %s\nbefore %v\nafter %v", seed, name, before.State, after.State, before.Findings, after.Findings)
			}
		}
	}
}

func TestEveryCombinationOfFactsHasAState(t *testing.T) {
	for seed := range uint64(1000) {
		v := Evaluate(arbitrary(rand.New(rand.NewPCG(seed, 1))))
		if v.State > Unavailable {
			t.Fatalf("seed %d: %s", seed, v.State)
		}
		worst := OK
		for _, f := range v.Findings {
			worst = max(worst, f.State)
			if f.Reason == "" {
				t.Fatalf("seed %d: a finding without a reason: %+v", seed, f)
			}
			if f.State > OK && f.NextStep == "" && f.Code != Reported && f.Object.Kind != KindVolume && f.Reason != "given" {
				t.Fatalf("seed %d: nothing is to be done about %+v", seed, f)
			}
			if _, known := depth[f.Code]; !known {
				t.Fatalf("seed %d: code %q has no place among causes and consequences", seed, f.Code)
			}
		}
		if worst != v.State {
			t.Fatalf("seed %d: %s does not follow from the findings (%s)", seed, v.State, worst)
		}
	}
}

func arbitraryVolume(r *rand.Rand, now time.Time) Volume {
	v := Volume{Name: "v", Life: Life(r.IntN(3)), Factor: 1 + r.IntN(3), Owner: 1, OwnerNode: "n1", OwnerOnline: r.IntN(4) != 0}
	v.Min = 1 + r.IntN(v.Factor)
	for range r.IntN(5) {
		full := r.IntN(v.Factor + 1)
		v.Extents.Add(Extent{Full: full, Reachable: r.IntN(full + 1), Factor: v.Factor, Min: v.Min})
	}
	if r.IntN(2) == 0 {
		v.Missing = []string{"n2"}
	}
	if r.IntN(3) != 0 {
		v.Report = &Report{At: now.Add(-time.Duration(r.IntN(10)) * time.Second), Unavailable: r.IntN(2), ResyncBytesLeft: uint64(r.IntN(2))}
	}
	return v
}

func TestAVolumesStateIsMonotoneToo(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for seed := range uint64(5000) {
		r := rand.New(rand.NewPCG(seed, 3))
		v := arbitraryVolume(r, now)
		before := OfVolume(v, now)
		for name, fault := range map[string]func(*Volume){
			"the owner goes": func(v *Volume) { v.OwnerOnline = false },
			"an extent loses a replica": func(v *Volume) {
				v.Extents.Add(Extent{Full: v.Factor - 1, Reachable: v.Factor - 1, Factor: v.Factor, Min: v.Min})
			},
			"an extent loses all": func(v *Volume) { v.Extents.Add(Extent{Factor: v.Factor, Min: v.Min}) },
			"the owner serves less": func(v *Volume) {
				if v.Report != nil {
					c := *v.Report
					c.Unavailable++
					v.Report = &c
				}
			},
		} {
			w := v
			fault(&w)
			if after := OfVolume(w, now); after.State < before.State {
				t.Fatalf("seed %d, %s: %s became %s (%+v)", seed, name, before.State, after.State, v)
			}
		}
	}
}

func TestAnExtentWithFewerCopiesIsNeverBetter(t *testing.T) {
	for factor := 1; factor <= 3; factor++ {
		for least := 1; least <= factor; least++ {
			last := Unavailable
			for full := 0; full <= factor; full++ {
				s := Extent{Full: full, Reachable: full, Factor: factor, Min: least}.State()
				if s > last {
					t.Errorf("%d of %d (least %d) is %s, with one copy fewer %s", full, factor, least, s, last)
				}
				last = s
			}
			if last != OK {
				t.Errorf("all %d copies (least %d) are %s", factor, least, last)
			}
		}
	}
}
