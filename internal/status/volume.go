package status

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Extent is what is known of one extent's set.
type Extent struct {
	// Full counts its full members in sync, Reachable those of them whose chunk is online.
	Full, Reachable int
	// Factor and Min are the members wished for and the least that take writes.
	Factor, Min int
}

// State is the extent's.
func (e Extent) State() State {
	switch n := min(e.Full, e.Reachable); {
	case n < e.Min || n <= 0:
		return Unavailable
	case n >= e.Factor:
		return OK
	case n <= e.Min:
		return AtRisk
	}
	return Degraded
}

// Tally counts a volume's extents by state.
type Tally struct {
	Extents, Degraded, AtRisk, Unavailable int // Degraded without those at risk
}

// Add counts an extent.
func (t *Tally) Add(e Extent) {
	t.Extents++
	switch e.State() {
	case Degraded:
		t.Degraded++
	case AtRisk:
		t.AtRisk++
	case Unavailable:
		t.Unavailable++
	}
}

// Life is where a volume is in its life.
type Life uint8

// The lives.
const (
	Ready Life = iota
	Creating
	Deleting
)

// Volume is what is known of a volume.
type Volume struct {
	ID, Name string
	Life     Life
	// Factor and Min are the replicas wished for and the least that take writes.
	Factor, Min int
	Extents     Tally
	// Missing are the nodes whose return or replacement would help.
	Missing []string
	// Owner is the chunk that serves it, on OwnerNode; OwnerOnline whether it is there.
	Owner       uint32
	OwnerNode   string
	OwnerOnline bool
	// Report is the owner's; nil: there is none of the present epoch.
	Report *Report
}

// Report is what a volume's owner says of it.
type Report struct {
	At time.Time
	// Unavailable counts the extents that it does not serve.
	Unavailable      int
	Reason, NextStep string
	// ResyncBytesLeft is what it has to copy.
	ResyncBytesLeft uint64
}

// ReportFresh is how old an owner's report may be to count as the present.
const ReportFresh = 5 * time.Second

// Fresh reports whether the owner's report counts as the present.
func (v *Volume) Fresh(now time.Time) bool {
	return v.Report != nil && now.Sub(v.Report.At) <= ReportFresh
}

// OfVolume says how a volume is. There is at most one finding.
//
// Sets come from metadata; whether an extent serves now, and the progress of copies, only the owner knows. Without a fresh report of it
// the sets and the reachability of their members are all there is.
func OfVolume(v Volume, now time.Time) Verdict {
	fresh := v.Fresh(now)
	asOf := now
	if v.Report != nil && !fresh {
		asOf = v.Report.At
	}
	f := Finding{Object: Object{Kind: KindVolume, Name: v.Name, Node: v.OwnerNode}, At: asOf, Stale: v.Report != nil && !fresh}
	done := func(s State, c Code) Verdict {
		f.State, f.Code = s, c
		return conclude([]Finding{f}, asOf)
	}
	unavailable := v.Extents.Unavailable
	if fresh {
		unavailable = max(unavailable, v.Report.Unavailable)
	}
	nodes := strings.Join(v.Missing, ", ")
	f.Evidence = v.evidence(fresh)
	switch {
	case v.Life == Creating:
		f.Reason = "the volume is being created"
		return done(Unavailable, VolumeUnavailable)
	case v.Life == Deleting:
		f.Reason = "the volume is being deleted"
		return done(Unavailable, VolumeUnavailable)
	case !v.OwnerOnline:
		f.Reason = fmt.Sprintf("its owner, chunk %d on node %s, is offline and no other chunk with its data is online", v.Owner, v.OwnerNode)
		f.NextStep = "bring back one of the nodes " + orText(nodes, v.OwnerNode)
		return done(Unavailable, VolumeUnavailable)
	case unavailable > 0:
		f.Reason = fmt.Sprintf("%d of %d extents do not take writes", unavailable, v.Extents.Extents)
		if fresh && v.Report.Reason != "" {
			f.Reason += ": " + v.Report.Reason
		} else if nodes != "" {
			f.Reason += fmt.Sprintf(": they need %s of the replicas on %s", count(v.Min, "full replica"), nodes)
		}
		f.NextStep = "bring back " + orText(nodes, "the offline nodes or disks")
		if fresh && v.Report.NextStep != "" {
			f.NextStep = v.Report.NextStep
		}
		return done(Unavailable, VolumeUnavailable)
	case v.Extents.AtRisk+v.Extents.Degraded > 0:
		f.Reason = fmt.Sprintf("%d of %d extents have fewer than %s in sync", v.Extents.AtRisk+v.Extents.Degraded, v.Extents.Extents, count(v.Factor, "replica"))
		if nodes != "" {
			f.Reason += "; missing on " + nodes
		}
		switch {
		case fresh && v.Report.ResyncBytesLeft > 0:
			f.NextStep = fmt.Sprintf("none: %s are left to copy", Bytes(v.Report.ResyncBytesLeft))
		case nodes != "":
			f.NextStep = "bring back " + nodes + ", or wait until its replicas are rebuilt elsewhere"
		}
		if v.Extents.AtRisk > 0 {
			return done(AtRisk, VolumeAtRisk)
		}
		return done(Degraded, VolumeDegraded)
	case !fresh:
		f.Reason = "all replicas are recorded as in sync; the owner has not reported yet"
		f.Stale = true
		return done(OK, Stale)
	}
	return Verdict{AsOf: asOf}
}

func (v *Volume) evidence(fresh bool) []string {
	var out []string
	if v.Owner != 0 {
		out = append(out, fmt.Sprintf("owner: chunk %d on node %s", v.Owner, orText(v.OwnerNode, "?")))
	}
	t := v.Extents
	if t.Degraded+t.AtRisk+t.Unavailable > 0 {
		out = append(out, fmt.Sprintf("extents: %d, of them %d degraded, %d at risk, %d unavailable; wished %d replicas, at least %d",
			t.Extents, t.Degraded, t.AtRisk, t.Unavailable, v.Factor, v.Min))
	}
	if fresh && v.Report.Unavailable > 0 {
		out = append(out, fmt.Sprintf("the owner serves all but %d extents", v.Report.Unavailable))
	}
	return out
}

// AppendNew appends s unless it is empty or there already.
func AppendNew(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

func orText(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// count writes a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Bytes writes a size for people, in binary units.
func Bytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, u := float64(n)/1024, 0
	for v >= 1024 && u < len(units)-1 {
		v, u = v/1024, u+1
	}
	s := strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
	return fmt.Sprintf("%s %ciB", s, units[u])
}
