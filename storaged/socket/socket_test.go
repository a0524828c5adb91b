package socket

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"testing"
)

func pair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestWhatTheSocketDoesNotTakeIsLeftToBeWritten(t *testing.T) {
	a, b := pair(t)
	var w Writer
	w.Init(a)
	// More than the buffers of both sides hold.
	sent := make([]byte, 64<<20)
	rand.Read(sent)
	var v net.Buffers
	for rest := sent; len(rest) > 0; {
		n := min(len(rest), 1<<20)
		v = append(v, rest[:n], nil)
		rest = rest[n:]
	}
	if w.Try(&v) {
		t.Fatal("64 MiB were taken at once, with nobody reading")
	}
	done := make(chan error, 1)
	go func() {
		_, err := v.WriteTo(a)
		done <- err
	}()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(b, got); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("what came differs from what was sent")
	}
}

func TestAShortVectorGoesWhole(t *testing.T) {
	a, b := pair(t)
	var w Writer
	w.Init(a)
	for range 3 {
		v := net.Buffers{[]byte("one"), nil, []byte(", "), []byte("two")}
		if !w.Try(&v) || len(v) != 0 {
			t.Fatalf("left: %q", v)
		}
		got := make([]byte, 8)
		if _, err := io.ReadFull(b, got); err != nil || string(got) != "one, two" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		v := net.Buffers(vector[:1])
		vector[0] = word
		w.Try(&v)
	}); n > 0 {
		t.Errorf("%.1f allocations for a write", n)
	}
}

var (
	word   = []byte("x")
	vector [4][]byte
)

func TestAConnectionWithoutASocketTakesNothing(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	var w Writer
	w.Init(a)
	v := net.Buffers{[]byte("x")}
	if w.Able() || w.Try(&v) || len(v) != 1 {
		t.Error("taken")
	}
}

func TestAClosedConnectionIsNoSuccess(t *testing.T) {
	a, _ := pair(t)
	var w Writer
	w.Init(a)
	a.Close()
	v := net.Buffers{[]byte("x")}
	if w.Try(&v) {
		t.Error("taken")
	}
}

func TestConsume(t *testing.T) {
	for n, want := range []string{"abcde", "bcde", "cde", "de", "e", ""} {
		v := net.Buffers{[]byte("ab"), []byte("c"), nil, []byte("de")}
		Consume(&v, n)
		if got := string(bytes.Join(v, nil)); got != want {
			t.Errorf("after %d: %q, want %q", n, got, want)
		}
	}
}
