package status

import "time"

// Facts are everything a cluster's state follows from. A field at its zero value is not known, and what is not known is no fault, except
// that nobody answers.
type Facts struct {
	Now time.Time
	// Read is when the metadata leader last answered; zero: never.
	Read time.Time
	// Silent says that the leader does not answer now, and SilentWhy why.
	Silent    bool
	SilentWhy string

	// Records says that Nodes and Disks are all that the metadata has, so that none of them is a finding.
	Records    bool
	Meta       []Member
	Nodes      []Node
	Disks      []Disk
	Volumes    []VolumeState
	Components []Component
	Space      Space
	// Given are findings of somebody who had more facts, above all the leader's.
	Given []Finding

	// ErrorWindow is how long after an error its finding stays; 0: ErrorWindowDefault.
	ErrorWindow time.Duration
}

// Limits that findings follow from.
const (
	// StaleAfter is how old an answer of the leader may be to count as the present.
	StaleAfter = 15 * time.Second
	// ErrorWindowDefault is how long after an error of a disk or a refused login the finding stays.
	ErrorWindowDefault = 15 * time.Minute
	// SkewMax is the difference of clocks from which certificates and the times in logs and status mislead.
	SkewMax = 2 * time.Second
	// CertificateSoon is how long before its end a certificate should have been renewed: they are at two thirds of a year.
	CertificateSoon = 14 * 24 * time.Hour
	// SlowDisk is the mean time of a journal write from which a disk counts as slow.
	SlowDisk = 500 * time.Millisecond
	// FillingPercent and FullPercent are the use of the pool from which it is said.
	FillingPercent, FullPercent = 80, 90
	// WearPercent is the life left of a disk under which it is said.
	WearPercent = 20
)

// Member is a metadata member.
type Member struct {
	Name, Address      string
	Healthy            bool
	Message            string
	CertificateExpires time.Time
}

// Node is a storage node.
type Node struct {
	Name        string
	Online      bool
	Maintenance bool
	Message     string
	LastSeen    time.Time
	// Unreachable are nodes whose chunk it cannot reach over the storage network.
	Unreachable        []string
	CertificateExpires time.Time
	ClockSkew          time.Duration
	LoginRefused       time.Time
	// NotReady says that Kubernetes does not count on the node; KnownToKubernetes that Kubernetes was asked.
	NotReady bool
}

// DiskState is what a disk does.
type DiskState uint8

// Disk states.
const (
	DiskActive DiskState = iota
	DiskIsDraining
	DiskIsDrained
	// DiskIsStalled: a request does not come back; the disk is used again as soon as it does.
	DiskIsStalled
	DiskHasFailed
	DiskIsMissing
	DiskIsRemoved
)

// Disk is a disk of the pool.
type Disk struct {
	ID, Name, Node, Device   string
	State                    DiskState
	Message                  string
	SizeBytes, UsedBytes     uint64
	IOErrors, ChecksumErrors uint64
	LastError                time.Time
	Latency                  time.Duration // mean of a journal write lately; 0: not known
	LifeLeftPercent          int           // as the disk itself says; meaningful if LifeKnown
	LifeKnown                bool
	SelfTestFailed           bool
	LastSeen                 time.Time
	Replicas                 int
}

// VolumeState is a volume that was judged already, by OfVolume.
type VolumeState struct {
	Name             string
	State            State
	Reason, NextStep string
	OwnerNode        string
	At               time.Time
}

// Component is a process that is not a metadata member or chunk: a redirector, agent, CSI driver, operator.
type Component struct {
	Name, Node string
	Up         bool
	Message    string
	NextStep   string
}

// Space is the pool's.
type Space struct {
	TotalBytes, UsedBytes uint64
	// LargestNodeBytes is what the fullest node holds; FreeElsewhereBytes what the others could take of it.
	LargestNode                          string
	LargestNodeBytes, FreeElsewhereBytes uint64
}
