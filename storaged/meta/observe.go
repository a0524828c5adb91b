package meta

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
)

// observed is what the leader notices of a chunk beside what decisions depend on: for status, metrics and alerts.
type observed struct {
	skew        time.Duration // the chunk's clock minus ours, the way of the report included
	certificate time.Time     // end of the certificate in use; zero: not known
	refused     uint64        // logins refused since the process started
	refusedAt   time.Time
	errors      map[block.DiskID]diskErrors
}

type diskErrors struct {
	io, checksum uint64
	at           time.Time // when they last grew
}

// take notes what a report says. The first report of a process is where counting begins: what it counted before is not known to be recent,
// except that a process reports within a heartbeat of its start.
func (o *observed) take(req *storagedv1.HeartbeatRequest, first bool, now time.Time) {
	if t := req.GetClock(); t != nil {
		// A report that was long on its way makes the sender's clock look late: what is later counts at once, what is earlier little by little.
		if d := t.AsTime().Sub(now); first || d > o.skew {
			o.skew = d
		} else {
			o.skew += (d - o.skew) / 8
		}
	}
	if t := req.GetCertificateExpires(); t != nil {
		o.certificate = t.AsTime()
	}
	if n := req.GetLoginsRefused(); n > o.refused && !first {
		o.refusedAt = now
	}
	o.refused = req.GetLoginsRefused()
	for _, d := range req.GetDisks() {
		id, err := block.ParseDiskID(d.GetDisk().GetId())
		if err != nil {
			continue
		}
		if o.errors == nil {
			o.errors = map[block.DiskID]diskErrors{}
		}
		old, known := o.errors[id]
		next := diskErrors{io: d.GetDisk().GetIoErrors(), checksum: d.GetDisk().GetChecksumErrors(), at: old.at}
		if known && (next.io > old.io || next.checksum > old.checksum) {
			next.at = now
		}
		o.errors[id] = next
	}
}

// observed returns what was noticed of a chunk.
func (r *registry) observed(id block.ChunkID) observed {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.chunks[id]; p != nil {
		o := p.observed
		o.errors = nil
		return o
	}
	return observed{}
}

// lastError is when the error counts of a chunk's disk last grew; zero: not in this leadership.
func (r *registry) lastError(id block.ChunkID, disk block.DiskID) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.chunks[id]; p != nil {
		return p.observed.errors[disk].at
	}
	return time.Time{}
}

func stampOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func orText(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
