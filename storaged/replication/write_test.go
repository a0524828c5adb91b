package replication

import (
	"testing"

	"github.com/iomesh/iomesh/storaged/block"
)

// While a replica moves from one disk of the owner's chunk to another, two members are on that chunk: a write needs both. It went to the last only, and
// waited for ever.
func TestAWriteGoesToAllMembersOfTheOwnChunk(t *testing.T) {
	g := newRigAt(t, 1, 1, 2, 1)
	g.perform(g.o.Write(g.now, WriteRequest{Tag: 1, Range: block.Range{Start: 8, Count: 1}, Data: data4k, Sums: sums4k}, g.out[:0]))
	if g.done != 1 {
		t.Error("a write that every member acknowledged is not complete")
	}
}
