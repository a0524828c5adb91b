package wire

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

// Type is the type of a frame.
type Type uint8

// TypeMessage frames carry a replication.Message.
const TypeMessage Type = 1

// Sizes of the encoding.
const (
	messageSize = 144
	runSize     = 24
	markSize    = 32
	targetSize  = 20
	volumeSize  = 20
)

// AppendMessage appends the head of a frame that carries m to dst. The data is m.Data and is sent after the head as it is;
// for MsgRead, where Data is only a place, none is sent.
func AppendMessage(dst []byte, m *replication.Message) []byte {
	var h [messageSize]byte
	le := binary.LittleEndian
	h[0] = uint8(m.Kind)
	h[1] = uint8(m.Status)
	le.PutUint16(h[2:], uint16(m.Flags))
	le.PutUint32(h[4:], m.Session)
	le.PutUint64(h[8:], m.Req)
	copy(h[16:32], m.Volume[:])
	copy(h[32:48], m.Disk[:])
	le.PutUint32(h[48:], uint32(m.Extent))
	le.PutUint32(h[56:], uint32(m.Epoch))
	le.PutUint32(h[60:], uint32(m.Generation))
	le.PutUint32(h[64:], uint32(m.SnapSeq))
	le.PutUint32(h[68:], uint32(m.View))
	le.PutUint32(h[72:], uint32(m.Range.Start))
	le.PutUint32(h[76:], m.Range.Count)
	le.PutUint64(h[80:], uint64(m.Stamp))
	le.PutUint64(h[88:], uint64(m.Watermark))
	le.PutUint32(h[96:], uint32(m.Owner))
	le.PutUint32(h[100:], uint32(len(m.Sums)))
	le.PutUint64(h[104:], m.Incarnation)
	le.PutUint64(h[112:], m.Chain)
	le.PutUint64(h[120:], uint64(m.Sent))
	if m.More != nil {
		le.PutUint32(h[128:], uint32(len(m.More.Runs)))
		le.PutUint32(h[132:], uint32(len(m.More.Marks)))
		le.PutUint32(h[136:], uint32(len(m.More.Targets)))
		le.PutUint32(h[140:], uint32(len(m.More.Volumes)))
	}
	dst = append(dst, h[:]...)
	for _, s := range m.Sums {
		dst = le.AppendUint32(dst, s)
	}
	if m.More == nil {
		return dst
	}
	for i := range m.More.Runs {
		r := &m.More.Runs[i]
		dst = le.AppendUint32(dst, uint32(r.Range.Start))
		dst = le.AppendUint32(dst, r.Range.Count)
		dst = le.AppendUint64(dst, uint64(r.Stamp))
		dst = le.AppendUint32(dst, uint32(r.Label))
		dst = append(dst, uint8(r.State), 0, 0, 0)
	}
	for i := range m.More.Marks {
		k := &m.More.Marks[i]
		dst = le.AppendUint32(dst, uint32(k.Extent))
		dst = append(dst, k.Disk[:]...)
		dst = le.AppendUint32(dst, uint32(k.Generation))
		dst = le.AppendUint64(dst, uint64(k.Watermark))
	}
	for i := range m.More.Targets {
		t := &m.More.Targets[i]
		dst = le.AppendUint32(dst, uint32(t.Extent))
		dst = append(dst, t.Disk[:]...)
	}
	for i := range m.More.Volumes {
		v := &m.More.Volumes[i]
		dst = append(dst, v.Volume[:]...)
		dst = le.AppendUint32(dst, uint32(v.Epoch))
	}
	return dst
}

// DecodeMessage reads the message of a frame into m. m.Data is the frame's data. m.Sums reuses the
// capacity it has, so a Message decoded into again and again allocates nothing in steady state; m.More is new. An error wraps ErrCorrupt.
func DecodeMessage(f *Frame, m *replication.Message) error {
	h := f.Head
	if f.Type != TypeMessage || len(h) < messageSize {
		return fmt.Errorf("%w: type %d with a head of %d bytes is no message", ErrCorrupt, f.Type, len(h))
	}
	le := binary.LittleEndian
	sums, runs, marks, targets, volumes := le.Uint32(h[100:]), le.Uint32(h[128:]), le.Uint32(h[132:]), le.Uint32(h[136:]), le.Uint32(h[140:])
	if sums > replication.IOBlocksMax || runs > replication.RunsMax || marks > replication.MarksMax ||
		targets > replication.TargetsMax || volumes > replication.VolumesMax {
		return fmt.Errorf("%w: lists of %d sums, %d runs, %d marks, %d targets, %d volumes", ErrCorrupt, sums, runs, marks, targets, volumes)
	}
	if want := messageSize + 4*int(sums) + runSize*int(runs) + markSize*int(marks) + targetSize*int(targets) + volumeSize*int(volumes); want != len(h) {
		return fmt.Errorf("%w: message of %d bytes should have %d", ErrCorrupt, len(h), want)
	}
	reuse := m.Sums[:0]
	*m = replication.Message{
		Kind:        replication.Kind(h[0]),
		Status:      replication.Status(h[1]),
		Flags:       replication.Flags(le.Uint16(h[2:])),
		Feature:     f.Feature,
		Session:     le.Uint32(h[4:]),
		Req:         le.Uint64(h[8:]),
		Extent:      block.ExtentIndex(le.Uint32(h[48:])),
		Epoch:       block.Epoch(le.Uint32(h[56:])),
		Generation:  block.Generation(le.Uint32(h[60:])),
		SnapSeq:     block.SnapSeq(le.Uint32(h[64:])),
		View:        block.SnapSeq(le.Uint32(h[68:])),
		Range:       block.Range{Start: block.No(le.Uint32(h[72:])), Count: le.Uint32(h[76:])},
		Stamp:       block.Stamp(le.Uint64(h[80:])),
		Watermark:   block.Stamp(le.Uint64(h[88:])),
		Owner:       block.ChunkID(le.Uint32(h[96:])),
		Incarnation: le.Uint64(h[104:]),
		Chain:       le.Uint64(h[112:]),
		Sent:        replication.Time(le.Uint64(h[120:])),
		Data:        f.Data,
	}
	copy(m.Volume[:], h[16:32])
	copy(m.Disk[:], h[32:48])
	if m.Epoch > block.EpochMax {
		return fmt.Errorf("%w: epoch %d", ErrCorrupt, m.Epoch)
	}
	if n := len(f.Data); n > 0 && (n != int(m.Range.Count)*block.Size || m.Range.Count > replication.IOBlocksMax) {
		return fmt.Errorf("%w: %d bytes of data for %d blocks", ErrCorrupt, n, m.Range.Count)
	}
	p := h[messageSize:]
	if sums > 0 {
		m.Sums = slices.Grow(reuse, int(sums))[:sums]
		for i := range m.Sums {
			m.Sums[i] = le.Uint32(p[4*i:])
		}
		p = p[4*sums:]
	}
	if runs|marks|targets|volumes == 0 {
		return nil
	}
	more := &replication.More{}
	if runs > 0 {
		more.Runs = make([]replication.Run, runs)
		for i := range more.Runs {
			e := p[runSize*i:]
			more.Runs[i] = replication.Run{
				Range: block.Range{Start: block.No(le.Uint32(e)), Count: le.Uint32(e[4:])},
				Stamp: block.Stamp(le.Uint64(e[8:])), Label: block.SnapSeq(le.Uint32(e[16:])), State: replication.BlockState(e[20]),
			}
			if r := &more.Runs[i]; !r.Range.Valid() || r.State > replication.BlockBad {
				return fmt.Errorf("%w: run %+v", ErrCorrupt, *r)
			}
		}
		p = p[runSize*runs:]
	}
	if marks > 0 {
		more.Marks = make([]replication.Mark, marks)
		for i := range more.Marks {
			e := p[markSize*i:]
			k := &more.Marks[i]
			k.Extent = block.ExtentIndex(le.Uint32(e))
			copy(k.Disk[:], e[4:20])
			k.Generation = block.Generation(le.Uint32(e[20:]))
			k.Watermark = block.Stamp(le.Uint64(e[24:]))
		}
		p = p[markSize*marks:]
	}
	if targets > 0 {
		more.Targets = make([]replication.ReplicaID, targets)
		for i := range more.Targets {
			e := p[targetSize*i:]
			more.Targets[i].Extent = block.ExtentIndex(le.Uint32(e))
			copy(more.Targets[i].Disk[:], e[4:20])
		}
		p = p[targetSize*targets:]
	}
	if volumes > 0 {
		more.Volumes = make([]replication.VolumeEpoch, volumes)
		for i := range more.Volumes {
			e := p[volumeSize*i:]
			copy(more.Volumes[i].Volume[:], e[:16])
			more.Volumes[i].Epoch = block.Epoch(le.Uint32(e[16:]))
		}
	}
	m.More = more
	return nil
}
