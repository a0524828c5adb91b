package readahead

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"
)

// counted tells the length of each read that a Reader makes.
type counted struct {
	r     io.Reader
	reads []int
}

func (c *counted) Read(p []byte) (int, error) {
	c.reads = append(c.reads, len(p))
	return c.r.Read(p)
}

// TestNothingIsLostOrReadTwice reads random segments, short and long, from streams that give any number of bytes at a time.
func TestNothingIsLostOrReadTwice(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 60 {
		want := make([]byte, 1<<20+rnd.IntN(1<<20))
		for i := range want {
			want[i] = byte(rnd.Uint32())
		}
		var src io.Reader = bytes.NewReader(want)
		switch round % 3 {
		case 0:
			src = iotest.HalfReader(src)
		case 1:
			src = iotest.DataErrReader(src)
		}
		r := New(src)
		var got []byte
		for len(got) < len(want) {
			head := make([]byte, min(48, len(want)-len(got)))
			if _, err := io.ReadFull(r, head); err != nil {
				t.Fatal(err)
			}
			got = append(got, head...)
			n := min([]int{0, 512, 4096, Size - 1, Size, 300 << 10}[rnd.IntN(6)], len(want)-len(got))
			r.Segment(n)
			for data := make([]byte, n); len(data) > 0; {
				k, err := r.Some(data)
				if k == 0 {
					t.Fatalf("no bytes, %v", err)
				}
				got, data = append(got, data[:k]...), data[k:]
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("round %d: what was read is not what was sent", round)
		}
		if _, err := r.Some(make([]byte, 10)); !errors.Is(err, io.EOF) {
			t.Fatalf("at the end: %v", err)
		}
	}
}

// TestLongSegmentsAreNotCopied reads a stream of long segments: of each no more than the little that is read ahead with its header goes through the buffer.
func TestLongSegmentsAreNotCopied(t *testing.T) {
	const n, segments = 1 << 20, 8
	c := &counted{r: bytes.NewReader(make([]byte, segments*(48+n)))}
	r := New(c)
	data := make([]byte, n)
	ahead := 0
	for i := range segments {
		if _, err := io.ReadFull(r, data[:48]); err != nil {
			t.Fatal(err)
		}
		if i > 0 {
			ahead = max(ahead, r.Buffered())
		}
		r.Segment(n)
		for p := data; len(p) > 0; {
			k, err := r.Some(p)
			if err != nil {
				t.Fatal(err)
			}
			p = p[k:]
		}
	}
	if ahead == 0 || ahead >= afterLong {
		t.Errorf("%d bytes of a long segment are read ahead, want some, below %d", ahead, afterLong)
	}
	for _, n := range c.reads {
		if n > pieceMax {
			t.Errorf("a read of %d bytes at once", n)
		}
	}
}

// TestManyShortMessagesTakeOneRead reads 4 KiB messages, of which many come with one read, also after a long one.
func TestManyShortMessagesTakeOneRead(t *testing.T) {
	c := &counted{r: bytes.NewReader(make([]byte, 48+Size+150*(48+4096)))}
	r := New(c)
	message := func(n int) {
		if _, err := io.ReadFull(r, make([]byte, 48)); err != nil {
			t.Fatal(err)
		}
		r.Segment(n)
		for p := make([]byte, n); len(p) > 0; {
			k, err := r.Some(p)
			if err != nil {
				t.Fatal(err)
			}
			p = p[k:]
		}
	}
	message(Size)
	before := len(c.reads)
	for range 150 {
		message(4096)
	}
	if got := len(c.reads) - before; got > 150*(48+4096)/Size+3 {
		t.Errorf("%d reads for 150 messages of 4 KiB", got)
	}
}
