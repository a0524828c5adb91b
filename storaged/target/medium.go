package target

import (
	"bytes"

	"github.com/iomesh/iomesh/internal/scsi"
)

// illegalLength refuses a command whose data would not have the length its CDB demands (INVALID FIELD IN COMMAND INFORMATION UNIT).
var illegalLength = scsi.Illegal(0x0e03)

// prepareMedium checks a command on the medium and decides what data it takes.
func (x *session) prepareMedium(t *task) {
	r := &t.req
	capacity := x.dev.volume.SizeBytes() / scsi.BlockBytes
	if r.Verb != scsi.VerbUnmap {
		if r.LBA > capacity || r.Blocks > capacity-r.LBA || (r.Verb == scsi.VerbGetLBAStatus && r.LBA == capacity) {
			t.fail(scsi.Illegal(scsi.LBAOutOfRange))
			return
		}
	}
	bytes := r.Blocks * scsi.BlockBytes
	transferred := r.Verb != scsi.VerbSync && r.Verb != scsi.VerbPrefetch && r.Verb != scsi.VerbWriteSame &&
		(r.Verb != scsi.VerbVerify || r.ByteCheck)
	if transferred && bytes > MaxTransferBytes {
		t.fail(scsi.InvalidCDB(lengthField(r.Opcode)))
		return
	}
	switch r.Verb {
	case scsi.VerbRead:
		x.stats.reads.Add(1)
		x.stats.readBytes.Add(bytes)
		t.dataFrom = bytes
		// Memory that the volume lends counts too: it is held until the initiator has taken the data.
		t.need, t.lent = uint32(bytes), x.dev.prop.LendsReads
		t.start = startRead
	case scsi.VerbWrite, scsi.VerbWriteVerify:
		x.stats.writes.Add(1)
		x.stats.writtenBytes.Add(bytes)
		if r.Atomic {
			if x.dev.prop.AtomicMaxBytes == 0 {
				t.fail(scsi.Illegal(scsi.InvalidOpcode))
				return
			}
			if bytes > uint64(x.dev.prop.AtomicMaxBytes) || r.LBA%8 != 0 || r.Blocks%8 != 0 {
				t.fail(scsi.InvalidCDB(lengthField(r.Opcode)))
				return
			}
		}
		// What is wanted and what the initiator will send may differ; the smaller is done, the residual tells (RFC 7143 §11.4.5).
		if !t.takes(bytes) {
			return
		}
		t.start = startWrite
		if r.Verb == scsi.VerbWriteVerify {
			t.start = inBackground(writeVerify)
		}
	case scsi.VerbVerify:
		x.stats.reads.Add(1)
		if r.ByteCheck {
			if !t.takesExactly(bytes) {
				return
			}
		}
		t.start = inBackground(verify)
	case scsi.VerbCompareAndWrite:
		x.stats.writes.Add(1)
		if bytes > MaxCompareBytes {
			t.fail(scsi.InvalidCDB(13))
			return
		}
		if !t.takesExactly(2 * bytes) {
			return
		}
		t.start = startCompare
	case scsi.VerbOrWrite:
		x.stats.writes.Add(1)
		if !t.takesExactly(bytes) {
			return
		}
		t.start = startOrWrite
	case scsi.VerbWriteSame:
		x.stats.writes.Add(1)
		if r.Blocks == 0 || bytes > MaxZeroBytes {
			t.fail(scsi.InvalidCDB(lengthField(r.Opcode))) // WSNZ, MAXIMUM WRITE SAME LENGTH
			return
		}
		if !r.NoData && !t.takesExactly(scsi.BlockBytes) {
			return
		}
		t.start = inBackground(writeSame)
	case scsi.VerbUnmap:
		x.stats.writes.Add(1)
		if t.takes(uint64(r.ParameterBytes)) {
			t.start = inBackground(unmap)
		}
	case scsi.VerbSync:
		x.stats.others.Add(1)
		t.start = startSync
	case scsi.VerbPrefetch:
		// Nothing is cached ahead: GOOD says that not all of it is in a cache (SBC-3 5.8).
		x.stats.others.Add(1)
	case scsi.VerbGetLBAStatus:
		x.stats.others.Add(1)
		t.start = inBackground(lbaStatus)

	}
}

// lengthField is where a CDB has its transfer length.
func lengthField(opcode byte) uint16 {
	switch opcode >> 5 {
	case 0:
		return 4
	case 1, 2:
		return 7
	case 5:
		return 6
	}
	return 10
}

// takes sets how much data the command wants from the initiator and gets. A command that says its data go the other way is refused.
func (t *task) takes(n uint64) bool {
	if n > 0 && t.expectedLen > 0 && !t.flagW {
		t.fail(illegalLength)
		return false
	}
	t.dataFrom = n
	if t.flagW {
		t.want = uint32(min(n, uint64(t.expectedLen)))
	}
	t.need = t.want
	return true
}

// takesExactly is takes for commands that can do nothing with less or more.
func (t *task) takesExactly(n uint64) bool {
	sent := uint64(0)
	if t.flagW {
		sent = uint64(t.expectedLen)
	}
	if sent != n {
		t.fail(scsi.InvalidCDB(lengthField(t.req.Opcode)))
		return false
	}
	return t.takes(n)
}

func inBackground(f func(*task)) func(*task) {
	return func(t *task) { t.s.background(t, f) }
}

func (t *task) offset() uint64 { return t.req.LBA * scsi.BlockBytes }

func startRead(t *task) {
	if t.req.Blocks == 0 {
		t.s.finishTask(t)
		return
	}
	t.s.submit(t, OpRead, t.offset(), t.req.Blocks*scsi.BlockBytes)
}

func startWrite(t *task) {
	n := uint64(t.got) &^ (scsi.BlockBytes - 1)
	if n == 0 {
		t.s.finishTask(t)
		return
	}
	t.cmd.Data = t.cmd.Data[:n]
	t.cmd.Atomic = t.req.Atomic
	t.s.submit(t, OpWrite, t.offset(), n)
}

func startOrWrite(t *task) {
	if t.req.Blocks == 0 {
		t.s.finishTask(t)
		return
	}
	t.s.submit(t, OpOrWrite, t.offset(), uint64(t.got))
}

func startCompare(t *task) {
	if t.req.Blocks == 0 {
		t.s.finishTask(t)
		return
	}
	t.s.submit(t, OpCompareAndWrite, t.offset(), uint64(t.got)/2)
}

func startSync(t *task) { t.s.submit(t, OpFlush, 0, 0) }

func writeVerify(t *task) {
	n := uint64(t.got) &^ (scsi.BlockBytes - 1)
	if n == 0 {
		return
	}
	if t.step(OpWrite, t.offset(), n, t.cmd.Data[:n]) {
		t.step(OpVerify, t.offset(), n, nil)
	}
}

func verify(t *task) {
	n := t.req.Blocks * scsi.BlockBytes
	if n == 0 {
		return
	}
	if !t.req.ByteCheck {
		for at := uint64(0); at < n; at += MaxUnmapBytes {
			if !t.step(OpVerify, t.offset()+at, min(n-at, MaxUnmapBytes), nil) {
				return
			}
		}
		return
	}
	want := t.cmd.Data[:n]
	buf := t.cmd.Buf
	t.cmd.Buf = nil
	defer func() {
		t.cmd.Buf.Release() // what the volume read into, or lent
		t.cmd.Buf, t.cmd.Data = buf, nil
	}()
	var into []byte
	if !t.s.dev.prop.LendsReads {
		t.cmd.Buf = t.s.srv.opt.Pool.Get(int(n))
		into = t.cmd.Buf.B
	}
	if !t.step(OpRead, t.offset(), n, into) {
		return
	}
	if have := t.cmd.Data; !bytes.Equal(have, want) {
		i := 0
		for have[i] == want[i] {
			i++
		}
		t.finish(Result{Kind: Miscompare, Offset: uint64(i)})
	}
}

// writeSame repeats one block. Zeros become OpWriteZeroes, or OpUnmap where the initiator allows it: unmapped blocks read as zeros
// (LBPRZ). Anything else is written out.
func writeSame(t *task) {
	r := &t.req
	n := r.Blocks * scsi.BlockBytes
	block := t.cmd.Data
	if r.NoData || allZero(block) {
		op := OpWriteZeroes
		t.cmd.MayUnmap = r.Unmap
		if r.Unmap && t.s.dev.prop.Thin {
			op = OpUnmap
		}
		t.step(op, t.offset(), n, nil)
		return
	}
	t.fillRange(t.offset(), n, block[:scsi.BlockBytes])
}

// patternBytes is how much is written at once of a repeated block.
const patternBytes = 1 << 20

// fillRange writes a pattern, whose length divides patternBytes, over a range.
func (t *task) fillRange(offset, n uint64, pattern []byte) bool {
	original := t.cmd.Buf
	buf := t.s.srv.opt.Pool.Get(int(min(n, patternBytes)))
	for at := 0; at < len(buf.B); {
		at += copy(buf.B[at:], pattern)
	}
	t.cmd.Buf = buf
	defer func() {
		buf.Release()
		t.cmd.Buf, t.cmd.Data = original, nil
	}()
	for at := uint64(0); at < n; {
		part := min(n-at, uint64(len(buf.B)))
		if !t.step(OpWrite, offset+at, part, buf.B[:part]) {
			return false
		}
		at += part
	}
	return true
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}

func unmap(t *task) {
	var data []byte
	if t.want > 0 {
		data = t.cmd.Data[:t.got]
	}
	if len(data) < int(t.req.ParameterBytes) {
		t.fail(scsi.Illegal(scsi.ParameterListLength))
		return
	}
	list, sense := scsi.ParseUnmap(data, unmapDescriptorsMax)
	if !sense.OK() {
		t.fail(sense)
		return
	}
	capacity := t.s.dev.volume.SizeBytes() / scsi.BlockBytes
	total := uint64(0)
	for _, e := range list {
		if e.LBA > capacity || uint64(e.Blocks) > capacity-e.LBA {
			t.fail(scsi.Illegal(scsi.LBAOutOfRange))
			return
		}
		total += uint64(e.Blocks)
	}
	if total > MaxUnmapBytes/scsi.BlockBytes {
		t.fail(scsi.InvalidParameter(8)) // MAXIMUM UNMAP LBA COUNT
		return
	}
	for _, e := range list {
		if !t.step(OpUnmap, e.LBA*scsi.BlockBytes, uint64(e.Blocks)*scsi.BlockBytes, nil) {
			return
		}
	}
}

// lbaRunsMax bounds one answer to GET LBA STATUS.
const lbaRunsMax = 64

func lbaStatus(t *task) {
	r := &t.req
	size := t.s.dev.volume.SizeBytes()
	room := int(min(uint64(r.AllocBytes), 8+16*lbaRunsMax)-min(uint64(r.AllocBytes), 8)) / 16
	var runs []scsi.LBAStatus
	for at := t.offset(); at < size && len(runs) < max(room, 1); {
		ask := min(size-at, MaxUnmapBytes)
		if !t.cmdMapped(at, ask, &runs) {
			return
		}
		last := runs[len(runs)-1]
		at = (last.LBA + uint64(last.Blocks)) * scsi.BlockBytes
	}
	t.replyData(scsi.AppendLBAStatus(nil, runs))
}

// cmdMapped asks the volume for the run at an offset and appends it, or joins it to the last if the state is the same.
func (t *task) cmdMapped(at, ask uint64, runs *[]scsi.LBAStatus) bool {
	if t.cmd.Aborting() {
		t.finish(Result{Kind: Aborted})
		return false
	}
	res := t.do(OpMapStatus, at, ask, nil)
	if res.Kind != OK {
		if res.Kind == Lost {
			t.s.dev.lost()
		}
		t.finish(res)
		return false
	}
	n := min(max(res.Offset, scsi.BlockBytes), ask) / scsi.BlockBytes
	*runs = append(*runs, scsi.LBAStatus{LBA: at / scsi.BlockBytes, Blocks: uint32(n), Mapped: res.Mapped})
	return true
}

// replyData answers with parameter data, cut to the allocation length.
func (t *task) replyData(b []byte) {
	if uint64(len(b)) > uint64(t.req.AllocBytes) {
		b = b[:t.req.AllocBytes]
	}
	t.data, t.dataFrom = b, uint64(len(b))
}
