package sim

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

func w(v uint32, from, to int64) BlockOp {
	return BlockOp{Write: true, Value: v, Call: from, Return: to, Who: "w"}
}
func r(v uint32, from, to int64) BlockOp { return BlockOp{Value: v, Call: from, Return: to, Who: "r"} }

func maybe(v uint32, from, to int64) BlockOp {
	o := w(v, from, to)
	o.Maybe = true
	return o
}

func TestCheckerTellsGoodHistoriesFromBad(t *testing.T) {
	refused := w(1, 1, 2)
	refused.Refused = true
	for _, c := range []struct {
		name string
		ops  []BlockOp
		ok   bool
	}{
		{"empty", nil, true},
		{"a read of the initial content", []BlockOp{r(0, 1, 2)}, true},
		{"a value nobody wrote", []BlockOp{r(7, 1, 2)}, false},
		{"a read sees the write before it", []BlockOp{w(1, 1, 2), r(1, 3, 4)}, true},
		{"an acknowledged write is lost", []BlockOp{w(1, 1, 2), r(0, 3, 4)}, false},
		{"an older acknowledged write comes back", []BlockOp{w(1, 1, 2), w(2, 3, 4), r(1, 5, 6)}, false},
		{"a read during a write may see either", []BlockOp{w(1, 1, 10), r(0, 2, 3), r(1, 4, 5)}, true},
		{"two reads during a write go backwards", []BlockOp{w(1, 1, 10), r(1, 2, 3), r(0, 4, 5)}, false},
		{"a write without answer may show up late", []BlockOp{w(1, 1, Never), r(0, 2, 3), r(1, 40, 50)}, true},
		{"a write without answer may never show up", []BlockOp{w(1, 1, Never), r(0, 20, 30)}, true},
		{"a write without answer shows up and goes again", []BlockOp{w(1, 1, Never), r(1, 2, 3), r(0, 4, 5)}, false},
		{"a read sees a write that comes later", []BlockOp{r(1, 1, 2), w(1, 3, 4)}, false},
		{"a repeated write takes effect after its repetition was acknowledged", []BlockOp{maybe(1, 1, 6), w(2, 3, 6), w(3, 7, 8), r(1, 9, 10)}, false},
		{"a repeated write takes effect before", []BlockOp{maybe(1, 1, 6), w(2, 3, 6), r(1, 4, 5), r(2, 9, 10)}, true},
		{"a repeated write never takes effect", []BlockOp{maybe(1, 1, 6), w(2, 3, 6), r(2, 9, 10)}, true},
		{"a refused write is read", []BlockOp{refused, r(1, 5, 6)}, false},
		{"a refused write is not read", []BlockOp{refused, r(0, 5, 6)}, true},
		{"concurrent writes, readers disagree on the order", []BlockOp{w(1, 1, 10), w(2, 1, 10), r(1, 11, 12), r(2, 13, 14)}, false},
		{"concurrent writes, one between two reads of the other", []BlockOp{w(1, 1, 20), w(2, 5, 6), r(1, 2, 3), r(1, 9, 10)}, false},
		{"concurrent writes in an order that fits", []BlockOp{w(1, 1, 20), w(2, 5, 6), r(2, 7, 8), r(1, 9, 10)}, true},
		{"a snapshot misses what was acknowledged before the barrier", []BlockOp{w(1, 1, 2), w(2, 3, 4), r(1, 5, 7)}, false},
		{"a snapshot holds what was called after it was committed", []BlockOp{w(1, 1, 2), r(2, 5, 7), w(2, 8, 9)}, false},
	} {
		if err := CheckRegister(c.ops); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestCheckerAgreesWithPorcupine compares with a checker that searches, on random histories, most of them nearly right.
func TestCheckerAgreesWithPorcupine(t *testing.T) {
	model := porcupine.Model{
		Init: func() any { return uint32(0) },
		Step: func(state, input, output any) (bool, any) {
			in := input.(BlockOp)
			if in.Write {
				return true, in.Value
			}
			return state.(uint32) == in.Value, state
		},
	}
	rng := rand.New(rand.NewPCG(1, 2))
	var good, bad int
	for range 4000 {
		var ops []BlockOp
		n := 2 + rng.IntN(8)
		content := []uint32{0}
		for i := range n {
			from := int64(rng.IntN(30)) + 1
			to := from + int64(rng.IntN(12)) + 1
			if rng.IntN(2) == 0 {
				if rng.IntN(5) == 0 {
					to = Never
				}
				ops = append(ops, w(uint32(i+1), from, to))
				content = append(content, uint32(i+1))
			} else {
				ops = append(ops, r(content[len(content)-1-rng.IntN(min(2, len(content)))], from, to))
			}
		}
		var events []porcupine.Operation
		for i, o := range ops {
			// Porcupine has no operation without end: one that returns after everything else may take effect at any time after its call, or
			// after all reads, which is as good as never. Returns at the time of a call do not order the two.
			end := o.Return*2 + 1
			if o.Return == Never {
				end = 1 << 40
			}
			events = append(events, porcupine.Operation{ClientId: i, Input: o, Call: o.Call * 2, Output: nil, Return: end - 1})
		}
		want := porcupine.CheckOperationsTimeout(model, events, time.Minute) == porcupine.Ok
		err := CheckRegister(ops)
		if want != (err == nil) {
			t.Fatalf("porcupine says %v, we say %v:\n%v", want, err, ops)
		}
		if want {
			good++
		} else {
			bad++
		}
	}
	if good < 300 || bad < 300 {
		t.Errorf("one-sided: %d good and %d bad histories", good, bad)
	}
}
