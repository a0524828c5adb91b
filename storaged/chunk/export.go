package chunk

import (
	"encoding/binary"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/target"
)

// exportBytes is the size of one read and of the largest message of an export.
const exportBytes = 1 << 20

// ReadView implements storagedv1.ChunkControlServer. It reads like an initiator: verified, from whichever replica is good. One read at a time: an
// export takes what foreground I/O leaves. A view that is not frozen changes under the reader.
func (c *controlServer) ReadView(r *storagedv1.ReadViewRequest, st storagedv1.ChunkControl_ReadViewServer) error {
	v, err := c.owned(r.VolumeId)
	if err != nil {
		return err
	}
	end := r.OffsetBytes + r.LengthBytes
	if r.OffsetBytes%block.Size != 0 || r.LengthBytes%block.Size != 0 || end < r.OffsetBytes || end > v.size.Load() {
		return status.Errorf(codes.OutOfRange, "read of %d bytes at %d of volume %s: not whole blocks within its %d bytes", r.LengthBytes, r.OffsetBytes, v.id, v.size.Load())
	}
	var zeros storagedv1.ReadViewResponse // gathered, not sent yet
	flush := func() error {
		if zeros.ZeroBytes == 0 {
			return nil
		}
		err := st.Send(&zeros)
		zeros = storagedv1.ReadViewResponse{}
		return err
	}
	buf := make([]byte, exportBytes)
	for at := r.OffsetBytes; at < end; {
		n := min(exportBytes, end-at, block.ExtentSizeBytes-at%block.ExtentSizeBytes)
		if err := st.Context().Err(); err != nil {
			return status.FromContextError(err).Err()
		}
		part := buf[:n]
		if res := v.readView(at, part, block.SnapSeq(r.SnapSeq)); res.Kind != target.OK {
			return exportError(v, res, at)
		}
		if allZero(part) {
			if zeros.ZeroBytes == 0 {
				zeros.OffsetBytes, zeros.Zero = at, true
			}
			zeros.ZeroBytes += n
		} else {
			if err := flush(); err != nil {
				return err
			}
			// Send may keep the message until it is encoded, not beyond; the bytes are copied into the frame.
			if err := st.Send(&storagedv1.ReadViewResponse{OffsetBytes: at, Data: slices.Clone(part)}); err != nil {
				return err
			}
		}
		at += n
	}
	return flush()
}

func exportError(v *volume, res target.Result, at uint64) error {
	switch res.Kind {
	case target.MediumError:
		return status.Errorf(codes.DataLoss, "volume %s: no good copy of the block at byte %d", v.id, res.Offset)
	case target.Lost:
		return status.Errorf(codes.FailedPrecondition, "volume %s has another owner now", v.id)
	}
	return status.Errorf(codes.Unavailable, "volume %s: read at byte %d failed: try again", v.id, at)
}

// readView fills dst, whole blocks within one extent, from a view.
func (v *volume) readView(at uint64, dst []byte, view block.SnapSeq) target.Result {
	type answer struct {
		result replication.Result
		rng    block.Range
	}
	done := make(chan answer, 1)
	b := at / block.Size
	rng := block.Range{Start: block.No(b % block.PerExtent), Count: uint32(len(dst) / block.Size)}
	p := &part{extent: block.ExtentIndex(b / block.PerExtent), rng: rng, at: at}
	clear(dst)
	p.done = func(_ *part, e *replication.Effect, buf *pagebuf.Buf) {
		switch {
		case e.Kind == replication.EffPiece:
			if len(e.Data) > 0 {
				copy(dst[int(e.Range.Start-rng.Start)*block.Size:], e.Data)
			}
			return
		case e.Result == replication.ResultOK && !e.Assembled && len(e.Data) > 0:
			copy(dst, e.Data)
		}
		buf.Release()
		done <- answer{e.Result, e.Range}
	}
	out := getEffects()
	v.mu.Lock()
	if v.lost {
		v.mu.Unlock()
		out.put()
		return target.Result{Kind: target.Lost}
	}
	out.list = v.o.Read(v.s.now(), replication.ReadRequest{Tag: v.add(p), Extent: p.extent, Range: rng, View: view}, out.list)
	v.settle(out)
	v.mu.Unlock()
	v.perform(out)
	a := <-done
	e := replication.Effect{Result: a.result, Range: a.rng}
	return v.outcome(&e, &part{r: &request{c: &target.Command{Offset: at}}, rng: rng, at: at})
}

func allZero(p []byte) bool {
	for ; len(p) >= 8; p = p[8:] {
		if binary.NativeEndian.Uint64(p) != 0 {
			return false
		}
	}
	return true
}
