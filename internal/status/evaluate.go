package status

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Evaluate says how the whole is, why, and what to do.
func Evaluate(f Facts) Verdict {
	e := &evaluation{f: &f, window: f.ErrorWindow}
	if e.window == 0 {
		e.window = ErrorWindowDefault
	}
	e.at = f.Read
	if e.at.IsZero() && !f.Silent {
		e.at = f.Now
	}
	e.stale = f.Silent || !f.Read.IsZero() && f.Now.Sub(f.Read) > StaleAfter
	e.list = append(e.list, f.Given...)
	e.metadata()
	e.volumes()
	e.nodes()
	e.disks()
	e.space()
	for _, c := range f.Components {
		if !c.Up {
			e.add(Degraded, ComponentDown, Object{KindComponent, c.Name, c.Node}, c.Name+onNode(c.Node)+" is not up"+colon(c.Message),
				orText(c.NextStep, "start it again; its log says why it ended"))
		}
	}
	for i := range e.list {
		e.list[i].Stale = e.list[i].Stale || e.stale
	}
	return conclude(unique(e.list), e.at)
}

type evaluation struct {
	f      *Facts
	at     time.Time
	stale  bool
	window time.Duration
	list   []Finding
}

func (e *evaluation) add(s State, c Code, o Object, reason, next string, evidence ...string) {
	e.list = append(e.list, Finding{Code: c, State: s, Object: o, Reason: reason, NextStep: next, Evidence: evidence, At: e.at})
}

// metadata judges the members: one more loss that would stop changes is at risk, silence too: what runs goes on, but nothing
// that fails now is made good.
func (e *evaluation) metadata() {
	var down []string
	for _, m := range e.f.Meta {
		if !m.Healthy {
			down = append(down, m.Name)
		}
	}
	n := len(e.f.Meta)
	for _, m := range e.f.Meta {
		o := Object{Kind: KindMeta, Name: m.Name}
		e.certificate(o, "meta member "+m.Name, m.CertificateExpires)
		if m.Healthy {
			continue
		}
		s := Degraded
		if n-len(down) <= n/2+1 {
			s = AtRisk
		}
		e.add(s, MetaMemberDown, o, fmt.Sprintf("%d of %d meta members are not healthy: %s", len(down), n, strings.Join(down, ", ")),
			"start storaged meta on "+strings.Join(down, ", "), orText(m.Message, "it does not answer"))
	}
	switch {
	case e.f.Silent:
		seen := "and never has"
		if !e.f.Read.IsZero() {
			seen = "since " + e.f.Read.UTC().Format(time.RFC3339)
		}
		e.add(AtRisk, MetadataSilent, Object{Kind: KindMeta}, SilentReason,
			"bring a majority of the meta members back", append([]string{"no answer " + seen}, nonEmpty(e.f.SilentWhy)...)...)
	case e.stale:
		e.add(Degraded, Stale, Object{Kind: KindCluster}, "what is known is of "+e.f.Read.UTC().Format(time.RFC3339), "ask again; if that does not help, look at the meta members")
	}
}

func (e *evaluation) volumes() {
	for _, g := range []struct {
		s    State
		c    Code
		what string
	}{{Unavailable, VolumeUnavailable, "unavailable"}, {AtRisk, VolumeAtRisk, "one more fault from being unavailable"}, {Degraded, VolumeDegraded, "without full redundancy"}} {
		var names []VolumeState
		for _, v := range e.f.Volumes {
			if v.State == g.s {
				names = append(names, v)
			}
		}
		if len(names) == 0 {
			continue
		}
		slices.SortFunc(names, func(a, b VolumeState) int { return cmp.Compare(a.Name, b.Name) })
		first := names[0]
		var evidence []string
		for i, v := range names {
			if i == evidenceMax {
				evidence = append(evidence, fmt.Sprintf("and %d more", len(names)-i))
				break
			}
			evidence = append(evidence, v.Name+": "+v.Reason)
		}
		e.add(g.s, g.c, Object{KindVolume, first.Name, first.OwnerNode},
			fmt.Sprintf("%s %s, first %s: %s", count(len(names), "volume"), g.what, first.Name, first.Reason), first.NextStep, evidence...)
	}
}

// SilentReason is the reason of MetadataSilent.
const SilentReason = "no metadata leader answers: volumes go on, but no failure is made good and nothing can be changed"

// evidenceMax bounds the lines of a finding's evidence.
const evidenceMax = 10

func (e *evaluation) nodes() {
	var offline, resting []string
	for _, n := range e.f.Nodes {
		if !n.Online {
			offline = append(offline, n.Name)
		}
		if n.Maintenance {
			resting = append(resting, n.Name)
		}
	}
	for i := range e.f.Nodes {
		n := &e.f.Nodes[i]
		o := Object{KindNode, n.Name, n.Name}
		e.certificate(o, "chunk of node "+n.Name, n.CertificateExpires)
		var seen []string
		if !n.LastSeen.IsZero() {
			seen = append(seen, "last heard of at "+n.LastSeen.UTC().Format(time.RFC3339))
		}
		if !n.Online {
			e.add(Degraded, NodeOffline, o, "nodes offline: "+strings.Join(offline, ", "),
				"start storaged on "+strings.Join(offline, ", ")+", or check the network", append(nonEmpty(n.Message), seen...)...)
		}
		if n.NotReady {
			e.add(Degraded, NodeNotReady, o, "Kubernetes says node "+n.Name+" is not ready", "see: kubectl describe node "+n.Name)
		}
		// That nobody reaches a node that is offline is said already.
		if cut := slices.DeleteFunc(slices.Clone(n.Unreachable), func(p string) bool { return slices.Contains(offline, p) }); len(cut) > 0 {
			e.add(Degraded, NodeUnreachable, o, "node "+n.Name+" cannot reach "+strings.Join(cut, ", ")+" over the storage network",
				"check the storage network between them", nonEmpty(n.Message)...)
		}
		if d := n.ClockSkew.Abs(); d > SkewMax {
			e.add(Degraded, ClockSkew, o, fmt.Sprintf("the clock of node %s differs by %s from the metadata leader's", n.Name, n.ClockSkew.Round(100*time.Millisecond)),
				"make its time synchronisation work: timedatectl, chronyc tracking")
		}
		if e.recent(n.LoginRefused) {
			e.add(Degraded, LoginsRefused, o, "the target on node "+n.Name+" refused a login", "compare the initiator's name and CHAP secret with the volume's grants; the log of the chunk names both",
				"last at "+n.LoginRefused.UTC().Format(time.RFC3339))
		}
		if n.Maintenance {
			e.add(OK, NodeMaintenance, o, "nodes in maintenance: "+strings.Join(resting, ", "), "")
		}
	}
	if len(e.f.Nodes) == 0 && e.f.Records {
		e.add(OK, NoNodes, Object{Kind: KindCluster}, "no node has registered yet", "start storaged chunk on the storage nodes")
	}
}

func (e *evaluation) certificate(o Object, what string, end time.Time) {
	if end.IsZero() {
		return
	}
	left := end.Sub(e.f.Now)
	at := "until " + end.UTC().Format(time.RFC3339)
	switch {
	case left <= 0:
		e.add(AtRisk, CertificateExpired, o, "the certificate of "+what+" has expired", "renew it; after its connections end it will not be let in again", at)
	case left < CertificateSoon:
		e.add(Degraded, CertificateExpiring, o, fmt.Sprintf("the certificate of %s ends in %s", what, left.Round(time.Hour)), "renew it: the operator does at two thirds of its life; its log says what holds it up", at)
	}
}

func (e *evaluation) recent(t time.Time) bool { return !t.IsZero() && e.f.Now.Sub(t) <= e.window }

func (e *evaluation) disks() {
	offline := map[string]bool{}
	for _, n := range e.f.Nodes {
		if !n.Online {
			offline[n.Name] = true
		}
	}
	var bad []string
	active := 0
	for i := range e.f.Disks {
		d := &e.f.Disks[i]
		switch {
		case d.State == DiskActive:
			active++
		case d.State == DiskHasFailed:
			bad = append(bad, d.title()+" (failed)")
		case d.State == DiskIsMissing && !offline[d.Node]:
			bad = append(bad, d.title()+" (missing)")
		}
	}
	for i := range e.f.Disks {
		d := &e.f.Disks[i]
		o := Object{KindDisk, d.title(), d.Node}
		evidence := append(nonEmpty(d.Message), d.traits()...)
		switch {
		case d.State == DiskHasFailed:
			e.add(Degraded, DiskFailed, o, "disks: "+strings.Join(bad, ", "), "replace the disks and remove the old ones", evidence...)
		case d.State == DiskIsMissing && !offline[d.Node]:
			e.add(Degraded, DiskMissing, o, "disks: "+strings.Join(bad, ", "), "replace the disks and remove the old ones", evidence...)
		case d.State == DiskIsStalled:
			e.add(Degraded, DiskSlow, o, "disk "+d.title()+" does not answer", "look at the disk, its cable and its controller; replace it if it does not come back", evidence...)
		case d.State == DiskIsDraining:
			e.add(OK, DiskDraining, o, "disk "+d.title()+" is being drained", "", evidence...)
		}
		if d.State == DiskIsRemoved {
			continue
		}
		if e.recent(d.LastError) {
			e.add(Degraded, DiskErrors, o, fmt.Sprintf("disk %s has %d I/O and %d checksum errors", d.title(), d.IOErrors, d.ChecksumErrors),
				"nothing is lost while the other replicas are good; plan its replacement if it goes on", append(evidence, "last at "+d.LastError.UTC().Format(time.RFC3339))...)
		}
		if d.Latency >= SlowDisk && d.State != DiskIsStalled {
			e.add(Degraded, DiskSlow, o, fmt.Sprintf("disk %s takes %s for a journal write", d.title(), d.Latency.Round(time.Millisecond)),
				"look at the disk and what else uses it; replace it if it stays slow", evidence...)
		}
		if d.SelfTestFailed || d.LifeKnown && d.LifeLeftPercent < WearPercent {
			reason := fmt.Sprintf("disk %s has %d %% of its life left", d.title(), d.LifeLeftPercent)
			if d.SelfTestFailed {
				reason = "disk " + d.title() + " failed its own test"
			}
			e.add(Degraded, DiskWearing, o, reason, "plan its replacement", evidence...)
		}
	}
	if active == 0 && len(e.f.Nodes) > 0 && e.f.Records {
		e.add(OK, NoDisks, Object{Kind: KindCluster}, "there is no active disk yet", "add a disk to at least one node per replica")
	}
}

func (d *Disk) title() string {
	if d.Node == "" {
		return orText(d.Name, d.ID)
	}
	return d.Node + "/" + orText(d.Name, d.ID)
}

func (d *Disk) traits() []string {
	var out []string
	if d.Device != "" {
		out = append(out, "device "+d.Device+", disk "+d.ID)
	}
	if d.Replicas > 0 {
		out = append(out, count(d.Replicas, "replica")+" on it")
	}
	return out
}

func (e *evaluation) space() {
	s := &e.f.Space
	o := Object{Kind: KindCluster}
	if s.TotalBytes > 0 {
		percent := float64(s.UsedBytes) * 100 / float64(s.TotalBytes)
		evidence := fmt.Sprintf("%s used of %s", Bytes(s.UsedBytes), Bytes(s.TotalBytes))
		switch reason := fmt.Sprintf("the pool is %d %% full", int(percent)); {
		case percent > FullPercent:
			e.add(Degraded, PoolFull, o, reason, "add disks, or delete volumes and snapshots", evidence)
		case percent > FillingPercent:
			e.add(OK, PoolFilling, o, reason, "add disks, or delete volumes and snapshots", evidence)
		}
	}
	offline := slices.ContainsFunc(e.f.Nodes, func(n Node) bool { return !n.Online })
	// While a node is away its space is not known, and what another loss would mean is said by the volumes.
	if s.LargestNodeBytes > s.FreeElsewhereBytes && !offline {
		e.add(OK, NodeLossUncovered, Object{KindNode, s.LargestNode, s.LargestNode}, "the loss of node "+s.LargestNode+" could not be made good in the space of the others", "add disks to other nodes",
			fmt.Sprintf("it holds %s, the others have room for %s", Bytes(s.LargestNodeBytes), Bytes(s.FreeElsewhereBytes)))
	}
}

// unique drops findings of the same code and object: of two, the worse, and of equal ones the first. Findings that speak of several objects at
// once (nodes offline: a, b) are kept once per object, so that each object has its own.
func unique(list []Finding) []Finding {
	type key struct {
		c Code
		o string
	}
	at := map[key]int{}
	var out []Finding
	for _, f := range list {
		k := key{f.Code, f.Object.String()}
		i, there := at[k]
		switch {
		case !there:
			at[k] = len(out)
			out = append(out, f)
		case f.State > out[i].State:
			out[i] = f
		}
	}
	return out
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func colon(s string) string {
	if s == "" {
		return ""
	}
	return ": " + s
}

func onNode(node string) string {
	if node == "" {
		return ""
	}
	return " on " + node
}
