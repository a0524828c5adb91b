package status

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Code names a kind of finding. It never changes: alerts, runbooks and scripts refer to it.
type Code string

// The codes.
const (
	MetadataSilent      Code = "MetadataSilent"
	MetaMemberDown      Code = "MetaMemberDown"
	NodeOffline         Code = "NodeOffline"
	NodeUnreachable     Code = "NodeUnreachable"
	NodeMaintenance     Code = "NodeMaintenance"
	NodeNotReady        Code = "NodeNotReady"
	NoNodes             Code = "NoNodes"
	ClockSkew           Code = "ClockSkew"
	CertificateExpiring Code = "CertificateExpiring"
	CertificateExpired  Code = "CertificateExpired"
	DiskFailed          Code = "DiskFailed"
	DiskMissing         Code = "DiskMissing"
	DiskErrors          Code = "DiskErrors"
	DiskSlow            Code = "DiskSlow"
	DiskWearing         Code = "DiskWearing"
	DiskDraining        Code = "DiskDraining"
	NoDisks             Code = "NoDisks"
	PoolFilling         Code = "PoolFilling"
	PoolFull            Code = "PoolFull"
	NodeLossUncovered   Code = "NodeLossUncovered"
	LoginsRefused       Code = "LoginsRefused"
	VolumeUnavailable   Code = "VolumeUnavailable"
	VolumeAtRisk        Code = "VolumeAtRisk"
	VolumeDegraded      Code = "VolumeDegraded"
	ComponentDown       Code = "ComponentDown"
	ClaimPending        Code = "ClaimPending"
	AttachFailed        Code = "AttachFailed"
	PodWaiting          Code = "PodWaiting"
	Stale               Code = "Stale"
	Reported            Code = "Reported"
)

// depth orders causes before consequences: what lies deeper is what the rest follows from.
var depth = map[Code]int{
	CertificateExpired: 0, NodeNotReady: 1, NodeOffline: 2, MetadataSilent: 3, MetaMemberDown: 4, DiskFailed: 5, DiskMissing: 6, ClockSkew: 7,
	NodeUnreachable: 8, ComponentDown: 9, DiskErrors: 10, DiskSlow: 11, PoolFull: 12, LoginsRefused: 13, NodeMaintenance: 14, NoNodes: 15, NoDisks: 16,
	CertificateExpiring: 17, PoolFilling: 18, DiskWearing: 19, NodeLossUncovered: 20, DiskDraining: 21, VolumeUnavailable: 30, VolumeAtRisk: 31,
	VolumeDegraded: 32, Reported: 33, AttachFailed: 35, ClaimPending: 36, PodWaiting: 37, Stale: 40,
}

// Codes lists all codes in alphabetical order.
func Codes() []Code {
	out := make([]Code, 0, len(depth))
	for c := range depth {
		out = append(out, c)
	}
	slices.Sort(out)
	return out
}

// Kind is what an object is.
type Kind string

// The kinds.
const (
	KindCluster   Kind = "cluster"
	KindMeta      Kind = "meta"
	KindNode      Kind = "node"
	KindDisk      Kind = "disk"
	KindVolume    Kind = "volume"
	KindComponent Kind = "component"
	KindPVC       Kind = "pvc"
	KindPod       Kind = "pod"
)

// Object is what a finding is about.
type Object struct {
	Kind Kind   `json:"kind"`
	Name string `json:"name"`
	// Node is where it is, "" where that says nothing.
	Node string `json:"node,omitempty"`
}

// String is kind/name.
func (o Object) String() string {
	if o.Name == "" {
		return string(o.Kind)
	}
	return string(o.Kind) + "/" + o.Name
}

// Finding is one thing that is not as it should be, or worth knowing.
type Finding struct {
	Code     Code      `json:"code"`
	State    State     `json:"-"`
	Object   Object    `json:"object"`
	Reason   string    `json:"reason"`
	Evidence []string  `json:"evidence,omitempty"`
	NextStep string    `json:"nextStep,omitempty"`
	At       time.Time `json:"at,omitzero"`
	Stale    bool      `json:"stale,omitempty"`
}

// Verdict is how a whole is.
type Verdict struct {
	State State
	// Findings, gravest first, of equal gravity causes before consequences.
	Findings []Finding
	// AsOf is the time of the oldest fact used; zero: there was none.
	AsOf time.Time
}

// Reason joins the reasons of all findings, each said once.
func (v Verdict) Reason() string {
	texts := make([]string, 0, len(v.Findings))
	for _, f := range v.Findings {
		texts = AppendNew(texts, f.Reason)
	}
	return strings.Join(texts, "; ")
}

// NextStep is that of the gravest finding that has one.
func (v Verdict) NextStep() string {
	for _, f := range v.Findings {
		if f.NextStep != "" {
			return f.NextStep
		}
	}
	return ""
}

// conclude orders findings and takes the worst state.
func conclude(list []Finding, asOf time.Time) Verdict {
	v := Verdict{Findings: list, AsOf: asOf}
	for _, f := range list {
		v.State = max(v.State, f.State)
	}
	slices.SortStableFunc(v.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(b.State, a.State), byCause(a, b))
	})
	return v
}

// byCause puts causes before consequences.
func byCause(a, b Finding) int {
	return cmp.Or(cmp.Compare(depth[a.Code], depth[b.Code]), cmp.Compare(a.Object.String(), b.Object.String()))
}
