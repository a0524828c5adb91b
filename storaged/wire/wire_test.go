package wire

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"testing"
	"testing/iotest"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/replication"
)

func sample() replication.Message {
	disk := block.DiskID{9, 8, 7}
	return replication.Message{
		Kind: replication.MsgCopy, Status: replication.StatusBadBlocks, Flags: replication.FlagJoin | replication.FlagReserve, Feature: 1,
		Session: 3, Req: 77, Volume: block.VolumeID{1, 2}, Disk: disk, Extent: 5, Epoch: 6, Generation: 7, SnapSeq: 8, View: block.LiveView,
		Range: block.Range{Start: 100, Count: 2}, Stamp: block.NewStamp(6, 9), Watermark: block.NewStamp(5, 1), Owner: 4, Incarnation: 1 << 60,
		Chain: 12, Sent: -13, Sums: []uint32{0xdeadbeef, 1}, Data: bytes.Repeat([]byte{0x5a}, 2*block.Size),
		More: &replication.More{
			Runs:    []replication.Run{{Range: block.Range{Start: 100, Count: 2}, Stamp: 99, Label: 3, State: replication.BlockBad}},
			Marks:   []replication.Mark{{ReplicaID: replication.ReplicaID{Extent: 1, Disk: disk}, Generation: 2, Watermark: 3}},
			Targets: []replication.ReplicaID{{Extent: 1, Disk: disk}, {Extent: 2, Disk: disk}},
			Volumes: []replication.VolumeEpoch{{Volume: block.VolumeID{4}, Epoch: 5}},
		},
	}
}

func encode(m *replication.Message) []byte {
	b := AppendMessage(make([]byte, HeaderSize), m)
	SealFrame(b, TypeMessage, 0, m.Feature, len(m.Data))
	return append(b, m.Data...)
}

func TestMessageRoundTrips(t *testing.T) {
	var pool pagebuf.Pool
	want := sample()
	small := replication.Message{Kind: replication.MsgWriteReply, Feature: 1, Req: 5}
	r := NewReader(bytes.NewReader(append(encode(&want), encode(&small)...)), &pool)
	for _, w := range []replication.Message{want, small} {
		var f Frame
		if err := r.Read(&f); err != nil {
			t.Fatal(err)
		}
		var got replication.Message
		if err := DecodeMessage(&f, &got); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, w) {
			t.Errorf("got  %+v\nwant %+v", got, w)
		}
		f.Buf.Release()
	}
	var f Frame
	if err := r.Read(&f); !errors.Is(err, io.EOF) {
		t.Fatalf("after the last frame: %v", err)
	}
}

func TestDataOfAFrameIsSummedAsItArrives(t *testing.T) {
	var pool pagebuf.Pool
	m := sample()
	m.Data = bytes.Repeat([]byte("as it arrives"), 100*block.Size)[:100*block.Size]
	m.Range.Count = 100
	for _, sums := range []bool{false, true} {
		r := NewReader(iotest.HalfReader(bytes.NewReader(encode(&m))), &pool)
		r.Sums = sums
		var f Frame
		if err := r.Read(&f); err != nil {
			t.Fatal(err)
		}
		got := f.Buf.Sums(f.Data)
		if !bytes.Equal(f.Data, m.Data) || (got != nil) != sums {
			t.Fatalf("data arrived: %v, sums: %v", bytes.Equal(f.Data, m.Data), got != nil)
		}
		for i, x := range got {
			if x != block.CRC32C(m.Data[i*block.Size:(i+1)*block.Size]) {
				t.Fatalf("sum of block %d", i)
			}
		}
		f.Buf.Release()
	}
}

func TestFrameGolden(t *testing.T) {
	// Part of the wire format: must never change.
	m := sample()
	m.Data = nil
	m.More.Marks, m.More.Targets = nil, nil
	const want = "494f4d3101000100c4000000000000000000000000000000"
	got := hex.EncodeToString(encode(&m))
	if got[:len(want)] != want {
		t.Errorf("frame header %s", got[:64])
	}
	if sum := block.CRC32C(encode(&m)); sum != 0xfe0ed0ec {
		t.Errorf("checksum of the golden frame %#08x", sum)
	}
}

func TestEveryFlippedBitOfAHeadIsSeen(t *testing.T) {
	var pool pagebuf.Pool
	m := sample()
	good := encode(&m)
	head := len(good) - len(m.Data)
	for bit := range head * 8 {
		if i := bit / 8; i >= 28 && i < 32 {
			continue // the reserved word behind the checksum means nothing
		}
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		var f Frame
		err := NewReader(bytes.NewReader(bad), &pool).Read(&f)
		if err == nil {
			t.Fatalf("bit %d of byte %d went unnoticed", bit%8, bit/8)
		}
	}
	if pool.Used() != 0 {
		t.Errorf("%d bytes of buffers leaked on errors", pool.Used())
	}
}

func TestListsBeyondTheirBoundsAreRefused(t *testing.T) {
	m := sample()
	m.Data = nil
	b := AppendMessage(nil, &m)
	b[100], b[101] = 0xff, 0xff
	var got replication.Message
	if err := DecodeMessage(&Frame{Type: TypeMessage, Head: b}, &got); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("err %v", err)
	}
}

func FuzzDecodeMessage(f *testing.F) {
	m := sample()
	m.Data = nil
	f.Add(AppendMessage(nil, &m))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, head []byte) {
		var got replication.Message
		if err := DecodeMessage(&Frame{Type: TypeMessage, Head: head}, &got); err != nil {
			return
		}
		if again := AppendMessage(nil, &got); len(again) != len(head) {
			t.Fatalf("%d bytes decoded, %d encoded", len(head), len(again))
		}
	})
}

func FuzzReadFrame(f *testing.F) {
	m := sample()
	f.Add(encode(&m))
	f.Fuzz(func(t *testing.T, stream []byte) {
		var pool pagebuf.Pool
		r := NewReader(bytes.NewReader(stream), &pool)
		for {
			var fr Frame
			if r.Read(&fr) != nil {
				break
			}
			fr.Buf.Release()
		}
		if pool.Used() != 0 {
			t.Fatal("buffer leaked")
		}
	})
}

func BenchmarkEncodeWrite4K(b *testing.B) {
	m := replication.Message{Kind: replication.MsgWrite, Sums: []uint32{1}, Data: make([]byte, 4096), Range: block.Range{Count: 1}}
	buf := make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		buf = AppendMessage(buf[:HeaderSize], &m)
		SealFrame(buf, TypeMessage, 0, 1, len(m.Data))
	}
}

func BenchmarkDecodeWrite4K(b *testing.B) {
	m := replication.Message{Kind: replication.MsgWrite, Sums: []uint32{1}, Data: make([]byte, 4096), Range: block.Range{Count: 1}}
	f := Frame{Type: TypeMessage, Head: AppendMessage(nil, &m), Data: m.Data}
	b.ReportAllocs()
	var got replication.Message
	for b.Loop() {
		if err := DecodeMessage(&f, &got); err != nil {
			b.Fatal(err)
		}
	}
}
