package store

import (
	"fmt"
	"runtime"
	"testing"
)

// catch runs f and reports whether it failed. f must be run with a recorder in place of t.
func catch(f func(fail func(string, ...any))) (caught string) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(func(format string, a ...any) {
			caught = fmt.Sprintf(format, a...)
			runtime.Goexit()
		})
	}()
	<-done
	return caught
}

func TestPlantedBugsAreCaught(t *testing.T) {
	if thin > 1 {
		t.Skip("looks for no races; runs without the detector")
	}
	cuts := func(bug plantedBug) func(func(string, ...any)) {
		return func(fail func(string, ...any)) {
			o := quiet()
			o.planted = bug
			for seed := range uint64(4) {
				powerCuts(seed, 40, 1, o, fail)
			}
		}
	}
	for name, c := range map[string]func(func(string, ...any)){
		"acknowledged before the flush":                 cuts(bugAckEarly),
		"root written before the tree is flushed":       cuts(bugRootFirst),
		"space reused before the checkpoint":            cuts(bugReuseEarly),
		"fences not written":                            cuts(bugForgetFence),
		"large write acknowledged before it is durable": cuts(bugAckLargeEarly),
		"last batch believed without its data":          cuts(bugTornUnits),
		"bad journal record taken for the tail":         recorded(func(t testing.TB) { damagedBatch(t, bugBadIsTail) }),
		"checksum without seed":                         recorded(func(t testing.TB) { checksumsSeeded(t, bugNoSeed) }),
		"a late write with an older stamp wins":         recorded(func(t testing.TB) { lateWrite(t, bugStaleWrite) }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := catch(c); got == "" {
				t.Error("not caught")
			} else {
				t.Log(got)
			}
		})
	}
}

// recorder is a testing.TB that notes the first failure instead of failing.
type recorder struct {
	testing.TB
	fail func(string, ...any)
}

func (r *recorder) Helper()                        {}
func (r *recorder) Fatal(a ...any)                 { r.fail("%s", fmt.Sprint(a...)) }
func (r *recorder) Fatalf(format string, a ...any) { r.fail(format, a...) }
func (r *recorder) Errorf(format string, a ...any) { r.fail(format, a...) }
func (r *recorder) Error(a ...any)                 { r.fail("%s", fmt.Sprint(a...)) }

func recorded(f func(testing.TB)) func(func(string, ...any)) {
	return func(fail func(string, ...any)) { f(&recorder{fail: fail}) }
}
