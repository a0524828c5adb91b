package calm

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig runs a Keeper and returns what tells its changes so far.
func rig(t *testing.T, used func() time.Duration) (*Keeper, func() []bool) {
	var mu sync.Mutex
	var list []bool
	changes := func() []bool {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(list)
	}
	k := New(false, nil)
	k.set = func(calm bool) {
		mu.Lock()
		defer mu.Unlock()
		list = append(list, calm)
	}
	k.used = used
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { k.Run(ctx); close(done) }()
	t.Cleanup(func() {
		cancel()
		<-done
		if k.calm.Load() {
			t.Error("the program is left calm")
		}
	})
	return k, changes
}

func none() time.Duration { return 0 }

func TestAProgramIsCalmAfterSecondsWithoutWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, changes := rig(t, none)
		<-time.After((quietLooks - 1) * look)
		k.Touch()
		<-time.After((quietLooks - 1) * look)
		if got := changes(); len(got) != 0 {
			t.Fatalf("changed to %v too soon after work", got)
		}
		<-time.After(3 * look)
		if got := changes(); !slices.Equal(got, []bool{true}) {
			t.Fatalf("changed to %v, want calm once", got)
		}
	})
}

func TestWorkWakesACalmProgramAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, changes := rig(t, none)
		for n := 1; n <= 3; n++ {
			<-time.After((quietLooks + 3) * look)
			for range 10 {
				k.Touch()
			}
			if got := changes(); len(got) != 2*n || got[2*n-1] {
				t.Fatalf("round %d: changed to %v", n, got)
			}
		}
	})
}

func TestAProgramThatUsesTheProcessorIsNotCalm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		share := 0.5
		_, changes := rig(t, func() time.Duration { return time.Duration(share * float64(time.Since(start))) })
		<-time.After(5 * quietLooks * look)
		if got := changes(); len(got) != 0 {
			t.Fatalf("changed to %v", got)
		}
	})
}

func TestNilDoesNothing(t *testing.T) {
	var k *Keeper
	k.Touch()
}

func TestTheNumberOfProcessorsComesBack(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.SetDefaultGOMAXPROCS()
	for _, given := range []bool{false, true} {
		set := New(false, nil).change(given, before)
		set(true)
		if n := runtime.GOMAXPROCS(0); n != 1 {
			t.Errorf("calm with %d processors", n)
		}
		set(false)
		if n := runtime.GOMAXPROCS(0); given && n != before || n < 1 {
			t.Errorf("awake with %d processors, before %d", n, before)
		}
	}
}
