package sim

import (
	"fmt"
	"strings"

	"github.com/iomesh/iomesh/storaged/replication"
)

var kindNames = map[replication.Kind]string{
	replication.MsgTakeEpoch: "TakeEpoch", replication.MsgEpochPending: "EpochPending", replication.MsgEpochTaken: "EpochTaken",
	replication.MsgWrite: "Write", replication.MsgUnmap: "Unmap", replication.MsgWriteReply: "WriteReply",
	replication.MsgRead: "Read", replication.MsgReadReply: "ReadReply", replication.MsgJoinStart: "JoinStart", replication.MsgJoinReply: "JoinReply",
	replication.MsgListStamps: "ListStamps", replication.MsgStamps: "Stamps", replication.MsgCopy: "Copy", replication.MsgCopyReply: "CopyReply",
	replication.MsgWatermark: "Watermark", replication.MsgConfirm: "Confirm", replication.MsgConfirmed: "Confirmed", replication.MsgRelease: "Release",
	replication.MsgLeaseRequest: "LeaseRequest", replication.MsgLeaseGrant: "LeaseGrant", replication.MsgLeaseRelease: "LeaseRelease",
}

// describe is one line about a message.
func describe(m *replication.Message) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s x%d e%d g%d s%d", kindNames[m.Kind], m.Extent, m.Epoch, m.Generation, m.Session)
	if m.Status != 0 {
		fmt.Fprintf(&b, " status %d", m.Status)
	}
	if m.Range.Count > 0 {
		fmt.Fprintf(&b, " [%d+%d]", m.Range.Start, m.Range.Count)
	}
	if m.Stamp != 0 {
		fmt.Fprintf(&b, " stamp %s", m.Stamp)
	}
	if m.Watermark != 0 {
		fmt.Fprintf(&b, " wm %s", m.Watermark)
	}
	if m.Flags != 0 {
		fmt.Fprintf(&b, " flags %x", m.Flags)
	}
	if len(m.Sums) > 0 && len(m.Sums) <= 8 {
		fmt.Fprintf(&b, " %v", m.Sums)
	}
	if m.More != nil {
		for i, r := range m.More.Runs {
			if i > 12 {
				b.WriteString(" …")
				break
			}
			fmt.Fprintf(&b, " (%d:%d+%d %s/%d)", r.Label, r.Range.Start, r.Range.Count, r.Stamp, r.State)
		}
	}
	return b.String()
}
