package pagebuf

import "testing"

func TestBuffersAreAlignedAndReused(t *testing.T) {
	var p Pool
	for _, n := range []int{0, 1, 4096, 4097, 65536, 1 << 20, MaxSize, MaxSize + 1} {
		b := p.Get(n)
		if len(b.B) != n || (n > 0 && !IsAligned(b.B)) {
			t.Fatalf("Get(%d): len %d, aligned %v", n, len(b.B), IsAligned(b.B))
		}
		b.Release()
	}
	if p.Used() != 0 {
		t.Fatalf("%d bytes still counted as lent", p.Used())
	}
	a := p.Get(4096)
	a.Release()
	if p.Get(4000) != a {
		t.Error("a free buffer of the class was not reused")
	}
}

func TestLastReleaseReturns(t *testing.T) {
	var p Pool
	b := p.Get(100)
	b.Retain()
	b.Release()
	if p.Used() == 0 {
		t.Fatal("returned while a reference is held")
	}
	b.Release()
	defer func() {
		if recover() == nil {
			t.Fatal("a double release went unnoticed")
		}
	}()
	b.Release()
}

func TestGetDoesNotAllocateInSteadyState(t *testing.T) {
	var p Pool
	p.Get(8192).Release()
	if n := testing.AllocsPerRun(100, func() { p.Get(8192).Release() }); n > 0 {
		t.Fatalf("%v allocations per Get and Release", n)
	}
}

func TestAbandonedBuffersAreNeverLentAgain(t *testing.T) {
	var p Pool
	b := p.Get(4096)
	b.Retain()
	b.Abandon()
	b.Release()
	if p.Used() != 0 {
		t.Fatalf("%d bytes still counted as lent", p.Used())
	}
	if p.Get(4096) == b {
		t.Fatal("lent again")
	}
}

func TestLargeBuffersOfASlabDoNotOverlap(t *testing.T) {
	var p Pool
	seen := map[*byte]bool{}
	for _, n := range []int{slabMin, 1 << 20, MaxSize} {
		var lent []*Buf
		for i := range 20 {
			b := p.Get(n)
			if len(b.B) != n || cap(b.B) != n || seen[&b.B[0]] || !IsAligned(b.B) {
				t.Fatalf("buffer %d of %d bytes: length %d, capacity %d, lent before %v", i, n, len(b.B), cap(b.B), seen[&b.B[0]])
			}
			seen[&b.B[0]] = true
			b.B[0], b.B[n-1] = byte(i), byte(i)
			lent = append(lent, b)
		}
		for i, b := range lent {
			if b.B[0] != byte(i) || b.B[n-1] != byte(i) {
				t.Errorf("buffer %d of %d bytes was written through another", i, n)
			}
			b.Release()
		}
	}
	if p.Used() != 0 {
		t.Errorf("%d bytes still counted as lent", p.Used())
	}
	if got := p.free.Load(); got < 0 || got > 64<<20 {
		t.Errorf("%d bytes counted as free", got)
	}
}
