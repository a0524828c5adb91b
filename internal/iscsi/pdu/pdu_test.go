package pdu

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"testing"
)

func TestGoldenDataInWithDigests(t *testing.T) {
	var h Header
	h.SetOpcode(DataIn)
	h.SetFlags(Final | HasStatus | Underflow)
	h.SetITT(0x01020304)
	h.SetTTT(NoTag)
	h.SetStatSN(5)
	h.SetExpCmdSN(6)
	h.SetMaxCmdSN(7)
	h.SetBufferOffset(512)
	h.SetResidualCount(9)
	b := Batch{HeaderDigest: true, DataDigest: true}
	b.Add(&h, []byte("abcde"))
	var out bytes.Buffer
	if _, err := b.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	// 48 bytes of header and its digest, 5 bytes of data, 3 of padding, their digest.
	const want = "2583000000000005" + "0000000000000000" + "01020304" + "ffffffff" + "00000005" + "00000006" + "00000007" +
		"00000000" + "00000200" + "00000009" + "7a744d8d" + "6162636465000000" + "838beaec"
	if got := hex.EncodeToString(out.Bytes()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestCRC32CVector(t *testing.T) {
	// RFC 7143 appendix A.4: 32 bytes of zeros have the digest aa 36 91 8a on the wire.
	var h Header
	b := Batch{DataDigest: true}
	b.Add(&h, make([]byte, 32))
	var out bytes.Buffer
	_, _ = b.WriteTo(&out)
	if got := hex.EncodeToString(out.Bytes()[Size+32:]); got != "aa36918a" {
		t.Errorf("digest %s", got)
	}
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	for _, digests := range []bool{false, true} {
		for _, n := range []int{0, 1, 2, 3, 4, 511, inlineMax, inlineMax + 1, 8192, 100000, 700001} {
			var out bytes.Buffer
			b := Batch{HeaderDigest: digests, DataDigest: digests}
			data := bytes.Repeat([]byte{7}, n)
			for i := range 3 {
				var h Header
				h.SetImmediate(NopOut)
				h.SetITT(uint32(i))
				b.Add(&h, data)
			}
			if _, err := b.WriteTo(&out); err != nil || b.Len() != 0 {
				t.Fatal(err)
			}
			r := NewReader(&out, 1<<20)
			r.HeaderDigest, r.DataDigest = digests, digests
			for i := range 3 {
				h, err := r.Next()
				if err != nil || h.ITT() != uint32(i) || h.Opcode() != NopOut || !h.Immediate() || h.DataLen() != n {
					t.Fatalf("%d bytes, PDU %d: %v", n, i, err)
				}
				if i == 1 {
					continue // Next skips
				}
				got := make([]byte, n)
				if err := r.ReadData(got); err != nil || !bytes.Equal(got, data) {
					t.Fatalf("%d bytes, PDU %d: data differ (%v)", n, i, err)
				}
			}
			if _, err := r.Next(); !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %v", err)
			}
		}
	}
}

func TestDamageIsNoticed(t *testing.T) {
	var out bytes.Buffer
	b := Batch{HeaderDigest: true, DataDigest: true}
	var h Header
	b.Add(&h, make([]byte, 100))
	_, _ = b.WriteTo(&out)
	whole := out.Bytes()
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x10
		r := NewReader(bytes.NewReader(bad), 1<<20)
		r.HeaderDigest, r.DataDigest = true, true
		g, err := r.Next()
		if err == nil {
			err = r.ReadData(make([]byte, g.DataLen()))
		}
		if err == nil {
			t.Fatalf("a flipped bit in byte %d went unnoticed", i)
		}
		if i > Size+4 && !errors.Is(err, ErrDataDigest) {
			t.Errorf("byte %d: %v, want a data digest error", i, err)
		}
	}
}

// TestASegmentLeftHalfWayIsSkipped takes a part of a segment and goes on to the next PDU.
func TestASegmentLeftHalfWayIsSkipped(t *testing.T) {
	var out bytes.Buffer
	b := Batch{HeaderDigest: true, DataDigest: true}
	var h Header
	for i := range uint32(2) {
		h.SetITT(i)
		b.Add(&h, make([]byte, 300_001))
	}
	_, _ = b.WriteTo(&out)
	r := NewReader(&out, 1<<20)
	r.HeaderDigest, r.DataDigest = true, true
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if n, err := r.ReadSome(make([]byte, 300_001)); err != nil || n == 0 || n == 300_001 {
		t.Fatalf("%d bytes at once, %v; want a part", n, err)
	}
	if h, err := r.Next(); err != nil || h.ITT() != 1 {
		t.Fatalf("the next PDU: %v", err)
	}
	if err := r.ReadData(make([]byte, 300_001)); err != nil {
		t.Fatal(err)
	}
}

func TestTooLongSegmentIsRefusedBeforeItIsRead(t *testing.T) {
	var h Header
	h.SetDataLen(1 << 20)
	r := NewReader(bytes.NewReader(h[:]), 8192)
	if _, err := r.Next(); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
}

func TestReadyLooksBehindTheData(t *testing.T) {
	var out bytes.Buffer
	var b Batch
	var h Header
	b.Add(&h, make([]byte, 100))
	_, _ = b.WriteTo(&out)
	r := NewReader(&out, 8192)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if r.Ready() {
		t.Error("the data of one PDU count as the header of the next")
	}
}

func FuzzReader(f *testing.F) {
	var out bytes.Buffer
	b := Batch{}
	var h Header
	b.Add(&h, []byte("hello"))
	_, _ = b.WriteTo(&out)
	f.Add(out.Bytes(), false)
	f.Add(bytes.Repeat([]byte{255}, 200), true)
	f.Fuzz(func(t *testing.T, data []byte, digests bool) {
		r := NewReader(bytes.NewReader(data), 4096)
		r.HeaderDigest, r.DataDigest = digests, digests
		for {
			h, err := r.Next()
			if err != nil {
				return
			}
			if h.DataLen() > 4096 {
				t.Fatal("longer than allowed")
			}
			if err := r.ReadData(make([]byte, h.DataLen())); err != nil && !errors.Is(err, ErrDataDigest) {
				return
			}
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	b.ReportAllocs()
	var batch Batch
	var h Header
	data := make([]byte, 4096)
	for b.Loop() {
		for range 32 {
			batch.Add(&h, data)
		}
		_, _ = batch.WriteTo(io.Discard)
	}
}

func BenchmarkDecode(b *testing.B) {
	b.ReportAllocs()
	var out bytes.Buffer
	var batch Batch
	var h Header
	for range 32 {
		batch.Add(&h, make([]byte, 4096))
	}
	_, _ = batch.WriteTo(&out)
	src := bytes.NewReader(out.Bytes())
	r := NewReader(src, 8192)
	data := make([]byte, 4096)
	for b.Loop() {
		src.Reset(out.Bytes())
		for range 32 {
			if _, err := r.Next(); err != nil {
				b.Fatal(err)
			}
			if err := r.ReadData(data); err != nil {
				b.Fatal(err)
			}
		}
	}
}
