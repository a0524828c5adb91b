package chunk

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/wakes"
)

func TestLongRequestsTakeSeveralTurns(t *testing.T) {
	for bytes, want := range map[uint64]int{0: 1, 512: 1, turnBytes: 1, turnBytes + 1: 2, 1 << 20: 8, 1 << 40: turnsMax} {
		if got := cost(bytes); got != want {
			t.Errorf("%d bytes cost %d turns, want %d", bytes, got, want)
		}
	}
}

// queue is a turns, beside a light volume or alone, and what it has begun, in order.
type queue struct {
	turns
	c crowd

	mu    sync.Mutex
	begun []*request
}

func newQueue(crowded bool) *queue {
	q := &queue{}
	q.turns.crowd = &q.c
	if crowded {
		q.c.add(period(0))
	}
	return q
}

func (q *queue) now() time.Duration { return 0 }

func (q *queue) begin(r *request, _ *wakes.List) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.begun = append(q.begun, r)
}

func (q *queue) submit(r *request) {
	if q.ask(r, 0) {
		q.begin(r, nil)
	}
}

func some(n, cost int) []*request {
	out := make([]*request, n)
	for i := range out {
		out[i] = &request{cost: cost}
	}
	return out
}

func TestAloneAVolumeHasUnderWayWhatItWants(t *testing.T) {
	q, all := newQueue(false), some(4*turnsMax, 1)
	for _, r := range all {
		q.submit(r)
	}
	if !slices.Equal(q.begun, all) {
		t.Errorf("%d of %d are under way", len(q.begun), len(all))
	}
}

func TestBesideOthersRequestsBeginInOrderAsTurnsComeBack(t *testing.T) {
	for _, cost := range []int{1, 3, turnsMax} {
		q, all := newQueue(true), some(4*turnsMax, cost)
		for _, r := range all {
			q.submit(r)
		}
		for done := range all {
			if want := min(len(all), done+turnsMax/cost); len(q.begun) != want || !slices.Equal(q.begun, all[:want]) {
				t.Fatalf("cost %d: after %d have ended %d have begun, want the first %d", cost, done, len(q.begun), want)
			}
			q.ended(cost, q.now, nil, q.begin)
		}
	}
}

func TestALongRequestIsNotPassedByShortOnes(t *testing.T) {
	q := newQueue(true)
	all := append(append(some(turnsMax-1, 1), some(1, 8)...), some(turnsMax, 1)...)
	for _, r := range all {
		q.submit(r)
	}
	for range turnsMax - 1 {
		q.ended(1, q.now, nil, q.begin)
		if !slices.Equal(q.begun, all[:len(q.begun)]) {
			t.Fatal("a request was passed")
		}
	}
	if len(q.begun) < turnsMax {
		t.Error("the long request has not begun")
	}
}

func TestWhenTheLightVolumeIsGoneAllThatWaitBegin(t *testing.T) {
	q, all := newQueue(true), some(4*turnsMax, 1)
	for _, r := range all {
		q.submit(r)
	}
	q.ended(1, func() time.Duration { return 2 * crowdPeriod }, nil, q.begin)
	if !slices.Equal(q.begun, all) {
		t.Errorf("%d of %d are under way", len(q.begun), len(all))
	}
}

// A request may end while it is begun, and others may come meanwhile.
func TestRequestsThatEndAtOnceLetTheNextInWithoutDescending(t *testing.T) {
	q, all := newQueue(true), some(1000*turnsMax, 1)
	late := some(1, 1)[0]
	for _, r := range all {
		q.submit(r)
	}
	depth := 0
	var begin func(r *request, l *wakes.List)
	begin = func(r *request, l *wakes.List) {
		if depth++; depth > 1 {
			t.Fatalf("begin within begin")
		}
		q.begin(r, l)
		if len(q.begun) == len(all) {
			if q.ask(late, 0) {
				t.Error("a request passed those that are being begun")
			}
		}
		q.ended(1, q.now, l, begin)
		depth--
	}
	q.ended(1, q.now, nil, begin)
	if !slices.Equal(q.begun, append(all, late)) {
		t.Errorf("%d begun, or not in order", len(q.begun))
	}
}

func TestAVolumeThatIsAloneIsNotBoundedForHavingBeenLight(t *testing.T) {
	q := newQueue(false)
	q.submit(some(1, 1)[0])
	for _, at := range []time.Duration{0, crowdPeriod, 2 * crowdPeriod} {
		for _, r := range some(2*turnsMax, 1) {
			if !q.ask(r, at) {
				t.Fatalf("a request waits, with %d turns taken and nobody else there", q.turns.begun)
			}
		}
	}
}

// load asks for n requests of one turn at a time, ends those that were begun, and returns how many had to wait for that.
func (q *queue) load(n int, at time.Duration) (waited int) {
	now := func() time.Duration { return at }
	for _, r := range some(n, 1) {
		if !q.ask(r, at) {
			waited++
		}
	}
	for q.turns.begun > 0 {
		q.ended(1, now, nil, func(*request, *wakes.List) {})
	}
	return waited
}

func periods(n int) time.Duration { return time.Duration(n * int(crowdPeriod)) }

func TestHeavyVolumesDoNotBoundEachOther(t *testing.T) {
	a, b := newQueue(false), newQueue(false)
	b.turns.crowd = &a.c
	for i := range 6 {
		// In their first period nobody knows them, and who was counted in a period counts in the next.
		for _, q := range []*queue{a, b} {
			if n := q.load(2*turnsMax, periods(i)); i >= 2 && n > 0 {
				t.Errorf("%d wait in period %d", n, i)
			}
		}
	}
}

func TestALightVolumeBoundsAHeavyOneAndNotItself(t *testing.T) {
	light, heavy := newQueue(false), newQueue(false)
	heavy.turns.crowd = &light.c
	for i := range 3 {
		if n := heavy.load(2*turnsMax, periods(i)); n > 0 {
			t.Fatalf("%d wait before", n)
		}
	}
	for i := range 3 {
		at := periods(3 + i)
		if n := light.load(1, at); n > 0 {
			t.Error("the light volume is bounded")
		}
		if n := heavy.load(2*turnsMax, at); n != turnsMax {
			t.Errorf("%d of %d wait in period %d after the light volume has come", n, 2*turnsMax, i)
		}
	}
	if n := light.load(2*turnsMax, 5*crowdPeriod); n > 0 {
		t.Errorf("%d of a light volume wait, and there is no other light one", n)
	}
}

func TestManyEndersKeepTheOrderAndTheBound(t *testing.T) {
	q, all := newQueue(true), some(20_000, 1)
	under := make(chan struct{}, turnsMax)
	begun := make(chan struct{}, len(all))
	begin := func(r *request, l *wakes.List) {
		select {
		case under <- struct{}{}:
		default:
			t.Error("more are under way than may be")
		}
		q.begin(r, l)
		begun <- struct{}{}
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range len(all) / 4 {
				<-begun
				<-under
				q.ended(1, q.now, nil, begin)
			}
		})
	}
	for _, r := range all {
		if q.ask(r, 0) {
			begin(r, nil)
		}
	}
	wg.Wait()
	if !slices.Equal(q.begun, all) {
		t.Errorf("%d of %d begun, or not in the order in which they were asked", len(q.begun), len(all))
	}
	if len(q.waiting) != 0 || q.turns.begun != 0 {
		t.Errorf("%d wait, %d turns are taken at the end", len(q.waiting), q.turns.begun)
	}
}

// burst submits n writes to one block, the i-th filled with i, beside a light volume, and returns the results.
func burst(v *volume, n int, meanwhile func()) []target.Result {
	var pool pagebuf.Pool
	var wg sync.WaitGroup
	out := make([]target.Result, n)
	for i := range n {
		v.s.crowd.add(period(v.s.since()))
		wg.Add(1)
		c := &target.Command{Op: target.OpWrite, Length: block.Size, Buf: pool.Get(block.Size), Done: func(c *target.Command, r target.Result) {
			out[i] = r
			c.Buf.Release()
			wg.Done()
		}}
		copy(c.Buf.B, bytes.Repeat([]byte{byte(i)}, block.Size))
		c.Data = c.Buf.B
		v.Submit(c)
	}
	meanwhile()
	wg.Wait()
	return out
}

func TestOverlappingWritesThatWaitForTheirTurnKeepTheirOrder(t *testing.T) {
	c := newTestCluster(t, 3, 1)
	id := c.made("v", 8<<20)
	for n := 8 * turnsMax; ; n++ {
		v := c.serving(id)
		res := burst(v, n, func() {})
		if slices.ContainsFunc(res, func(r target.Result) bool { return r.Kind == target.Lost || r.Kind == target.Unavailable }) {
			continue // a busy machine
		}
		if i := slices.IndexFunc(res, func(r target.Result) bool { return r.Kind != target.OK }); i >= 0 {
			t.Fatalf("write %d: %+v", i, res[i])
		}
		if r, got := c.do(id, target.OpRead, 0, block.Size, nil); r.Kind != target.OK || !bytes.Equal(got, bytes.Repeat([]byte{byte(n - 1)}, block.Size)) {
			t.Errorf("read %+v: %d instead of the last of %d writes", r, got[0], n)
		}
		return
	}
}

func TestRequestsThatWaitForTheirTurnAreAnsweredWhenTheVolumeIsLost(t *testing.T) {
	c := newTestCluster(t, 3, 1)
	v := c.serving(c.made("v", 8<<20))
	res := burst(v, 20*turnsMax, v.superseded)
	for i, r := range res {
		if r.Kind != target.OK && r.Kind != target.Lost {
			t.Errorf("write %d: %+v", i, r)
		}
	}
	if r, _ := v.do(target.OpWrite, 0, block.Size, make([]byte, block.Size)); r.Kind != target.Lost {
		t.Errorf("after the loss: %+v", r)
	}
}
