package block

import "fmt"

// Epoch is the fencing number of a volume, raised whenever its owner changes (I3). 24 bits: in [1, EpochMax].
type Epoch uint32

// EpochMax is the highest epoch a volume can reach.
const EpochMax Epoch = 1<<24 - 1

// Generation is the version of an extent's in-sync set (I2). The first is 1.
type Generation uint32

// SnapSeq is the number of snapshots taken of a volume so far; it travels in every write (I11).
type SnapSeq uint32

// LiveView is the SnapSeq that names the newest content in requests for a view.
const LiveView SnapSeq = 1<<32 - 1

// Feature is the level of wire and disk features in use in the cluster. Messages and superblocks carry it.
type Feature uint16

// FeatureLevel is the highest level this build knows.
const FeatureLevel Feature = 1

// Stamp is the sequence number of a write within its extent: epoch in the high 24 bits, a counter in the low 40.
// Stamps of one extent are unique, and their integer order is the order of (epoch, sequence). 0 is "never written".
type Stamp uint64

const (
	counterBits = 40
	// CounterMax is the highest counter within an epoch; an owner that nears it takes a new epoch.
	CounterMax uint64 = 1<<counterBits - 1
)

// NewStamp joins epoch and counter. It panics if either is out of range: both are our own numbers.
func NewStamp(e Epoch, counter uint64) Stamp {
	if e > EpochMax || counter > CounterMax {
		panic(fmt.Sprintf("stamp out of range: epoch %d counter %d", e, counter))
	}
	return Stamp(uint64(e)<<counterBits | counter)
}

// Epoch is the epoch in which the write was numbered.
func (s Stamp) Epoch() Epoch { return Epoch(s >> counterBits) }

// Counter is the number of the write within its epoch.
func (s Stamp) Counter() uint64 { return uint64(s) & CounterMax }

// String is "epoch.counter".
func (s Stamp) String() string { return fmt.Sprintf("%d.%d", s.Epoch(), s.Counter()) }
