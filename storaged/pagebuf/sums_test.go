package pagebuf

import (
	"math/rand/v2"
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
)

func TestSumsAreThoseOfWhatWasFilled(t *testing.T) {
	var p Pool
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
		n := 1 + rnd.IntN(9*block.Size)
		b := p.Get(n)
		if b.Sums(b.B[:min(n, block.Size)]) != nil {
			t.Fatal("a fresh buffer has sums of what was in it before")
		}
		gap := rnd.IntN(3) == 0
		whole := 0 // blocks there are sums of
		for at := 0; at < n; {
			k := 1 + rnd.IntN(n-at)
			for i := at; i < at+k; i++ {
				b.B[i] = byte(rnd.Uint32())
			}
			if gap && at > 0 {
				b.Filled(at+1, at+k)
			} else {
				b.Filled(at, at+k)
				if !gap || at == 0 {
					whole = (at + k) / block.Size
				}
			}
			at += k
			if gap {
				break
			}
		}
		for i := range n / block.Size {
			x := b.B[i*block.Size : (i+1)*block.Size]
			got := b.Sums(x)
			if (got != nil) != (i < whole) {
				t.Fatalf("round %d: block %d of %d has sums: %v", round, i, whole, got != nil)
			}
			if got != nil && got[0] != block.CRC32C(x) {
				t.Fatalf("round %d: sum of block %d of %d bytes is wrong", round, i, n)
			}
		}
		if whole >= 2 && len(b.Sums(b.B[:2*block.Size])) != 2 {
			t.Fatal("no sums of two blocks")
		}
		b.Release()
	}
}

func TestSumsOfOtherMemoryAreNotGiven(t *testing.T) {
	var p Pool
	a, b := p.Get(2*block.Size), p.Get(2*block.Size)
	a.Filled(0, len(a.B))
	for what, x := range map[string][]byte{
		"of another buffer": b.B, "between blocks": a.B[100 : 100+block.Size], "of part of a block": a.B[:100], "of nothing": nil,
	} {
		if a.Sums(x) != nil {
			t.Errorf("sums %s", what)
		}
	}
	if (*Buf)(nil).Sums(a.B) != nil {
		t.Error("sums without a buffer")
	}
	if len(a.Sums(a.B)) != 2 {
		t.Error("no sums of the whole")
	}
}
