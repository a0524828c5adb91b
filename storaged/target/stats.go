package target

import (
	"net/netip"
	"sync/atomic"
	"time"
)

// counters of one session; summed per target when it ends.
type counters struct {
	reads, writes, others   atomic.Uint64
	readBytes, writtenBytes atomic.Uint64
	errors                  atomic.Uint64 // commands that ended with another status than GOOD
	digestErrors            atomic.Uint64
}

// Counters are totals since the start.
type Counters struct {
	Reads, Writes, Others   uint64
	ReadBytes, WrittenBytes uint64
	Errors, DigestErrors    uint64
}

func (c *counters) value() Counters {
	return Counters{c.reads.Load(), c.writes.Load(), c.others.Load(), c.readBytes.Load(), c.writtenBytes.Load(),
		c.errors.Load(), c.digestErrors.Load()}
}

func (c *Counters) add(o Counters) {
	c.Reads += o.Reads
	c.Writes += o.Writes
	c.Others += o.Others
	c.ReadBytes += o.ReadBytes
	c.WrittenBytes += o.WrittenBytes
	c.Errors += o.Errors
	c.DigestErrors += o.DigestErrors
}

// SessionInfo describes one session.
type SessionInfo struct {
	Target, Initiator string
	ISID              [6]byte
	TSIH              uint16
	Remote, Portal    netip.AddrPort
	Grant             uint64 // generation
	ReadOnly          bool
	HeaderDigest      bool
	DataDigest        bool
	Since             time.Time
	InProgress        int   // commands
	DataBytes         int64 // held in buffers
	Counters          Counters
}

// Totals are numbers of the whole server.
type Totals struct {
	Connections, Logins, Sessions int
	// RefusedConnections counts those closed because a limit was reached, FailedLogins logins that were refused for
	// what the initiator asked or is (RFC 7143 11.13.5, status class 2).
	RefusedConnections, FailedLogins uint64
	DataBytes                        int64
	PerTarget                        map[string]Counters
}
