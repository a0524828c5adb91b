package sim

import (
	"fmt"
	"math"
	"sort"
)

// Never is the response time of an operation that was not answered.
const Never = math.MaxInt64

// BlockOp is one operation on one block as a client saw it: a write of a value that is written only once, or a read that saw
// it. Value 0 is the content before the first write.
type BlockOp struct {
	Write bool
	Value uint32
	// Call and Return are the times between which the operation took effect. Return is Never for a write without an
	// answer or with one that leaves the outcome open; reads without an answer say nothing and are left out.
	Call, Return int64
	// Maybe: the outcome of the write is open, but if it took effect, it did so before Return.
	Maybe bool
	// Refused: the write was answered with "nothing was changed": nobody may ever read it.
	Refused bool
	Who     string
}

func (o BlockOp) String() string {
	k := "read"
	if o.Write {
		k = "write"
	}
	end := "never"
	if o.Return != Never {
		end = fmt.Sprintf("%.6fs", float64(o.Return)/1e9)
	}
	return fmt.Sprintf("%s %d by %s [%.6fs, %s]", k, o.Value, o.Who, float64(o.Call)/1e9, end)
}

// zone is what the operations about one value say: it was the content from first (or later) to last (or earlier).
type zone struct {
	value       uint32
	write       *BlockOp
	first, last int64 // earliest return and latest call of all its operations
	reads       int
	late        *BlockOp // the operation with the latest call
	early       *BlockOp // the operation with the earliest return
}

// forward reports whether the value must have been the content throughout [first, last].
func (z *zone) forward() bool { return z.first < z.last }

// CheckRegister reports why ops cannot be the history of one linearizable register, nil if they can. Every value is written
// at most once, so that it is known which write a read saw, and the decision needs no search (Gibbons and Korach, 1997): the operations about a value span a zone;
// two zones in which a value must have been the content all the time may not overlap, and none that is only a moment may lie wholly within such a one.
func CheckRegister(ops []BlockOp) error {
	zones := map[uint32]*zone{}
	var order []*zone
	get := func(v uint32) *zone {
		z := zones[v]
		if z == nil {
			z = &zone{value: v, first: Never, last: math.MinInt64}
			zones[v] = z
			order = append(order, z)
		}
		return z
	}
	initial := BlockOp{Write: true, Call: math.MinInt64, Return: math.MinInt64, Who: "before the run"}
	get(0).write = &initial
	for i := range ops {
		o := &ops[i]
		z := get(o.Value)
		if o.Write {
			if z.write != nil {
				return fmt.Errorf("history is malformed: value %d is written twice", o.Value)
			}
			z.write = o
		} else {
			z.reads++
		}
	}
	note := func(z *zone, o *BlockOp) {
		if o.Return < z.first || z.early == nil {
			z.first, z.early = o.Return, o
		}
		if o.Call > z.last || z.late == nil {
			z.last, z.late = o.Call, o
		}
	}
	for _, z := range order {
		if z.write == nil {
			continue
		}
		if z.reads == 0 && (z.write.Return == Never || z.write.Maybe || z.write.Refused) {
			z.write = nil // need not have happened
			continue
		}
		note(z, z.write)
	}
	for i := range ops {
		o := &ops[i]
		if o.Write {
			continue
		}
		z := zones[o.Value]
		switch {
		case z.write == nil:
			return fmt.Errorf("%s: nobody wrote that value", o)
		case z.write.Refused:
			return fmt.Errorf("%s: the write was answered with an error that says nothing was changed", o)
		case o.Return < z.write.Call:
			return fmt.Errorf("%s: before its %s", o, z.write)
		}
		note(z, o)
	}
	var fwd, moment []*zone
	for _, z := range order {
		switch {
		case z.write == nil:
		case z.forward():
			fwd = append(fwd, z)
		default:
			moment = append(moment, z)
		}
	}
	sort.SliceStable(fwd, func(i, j int) bool { return fwd[i].first < fwd[j].first })
	for i := 1; i < len(fwd); i++ {
		if a, b := fwd[i-1], fwd[i]; b.first < a.last {
			return fmt.Errorf("two values at once: %s and %s, but %s and %s", a.early, a.late, b.early, b.late)
		}
	}
	for _, m := range moment {
		// m took place within [m.last, m.first].
		i := sort.Search(len(fwd), func(i int) bool { return fwd[i].first > m.last }) - 1
		if i >= 0 && m.first < fwd[i].last && fwd[i].first < m.last {
			return fmt.Errorf("an older value came back: %s and %s, but in between %s", fwd[i].early, fwd[i].late, m.early)
		}
	}
	return nil
}
