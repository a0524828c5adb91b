package chunk

import (
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/replication"
)

func TestResyncMakesWayForClients(t *testing.T) {
	const limit, scrub, tick = 400 << 20, 8 << 20, 20 * time.Millisecond
	type load struct {
		seconds int
		ms      float64 // a request takes
		n       uint64  // requests per tick
		copying bool
		slow    float64 // what one of them takes, if not 0
	}
	for _, c := range []struct {
		name   string
		load   []load
		lo, hi int64 // resync, bytes per second
		scrubs bool
	}{
		{"nobody is there: as fast as allowed", []load{{2, 0, 0, true, 0}}, limit * 95 / 100, limit, false},
		{"clients do not notice: as fast as allowed", []load{{3, 1, 20, false, 0}, {20, 1.5, 20, true, 0}}, limit * 95 / 100, limit, false},
		{"clients wait: down to the floor", []load{{3, 1, 20, false, 0}, {10, 9, 20, true, 0}}, paceFloor * 95 / 100, paceFloor, false},
		{"one in twenty waits: down to the floor", []load{{3, 1, 20, false, 5}, {10, 1, 20, true, 10}}, paceFloor * 95 / 100, paceFloor, false},
		{"a moment's hold-up before does not count", []load{{3, 1, 20, false, 5}, {1, 200, 20, false, 0}, {10, 1, 20, true, 20}}, paceFloor * 95 / 100, paceFloor, false},
		{"one in twenty has always waited", []load{{3, 1, 20, false, 10}, {20, 1, 20, true, 10}}, limit * 95 / 100, limit, false},
		{"and up again when they have gone", []load{{3, 1, 20, false, 0}, {10, 9, 20, true, 0}, {3, 0, 0, true, 0}}, limit * 95 / 100, limit, false},
		{"another load is not blamed on the copies for ever", []load{{3, 1, 20, false, 0}, {180, 9, 20, true, 0}}, 2 * paceFloor, limit, false},
		{"scrub goes on while nothing is copied", []load{{3, 1, 20, false, 0}}, 0, limit, true},
		{"and rests while clients wait", []load{{3, 1, 20, false, 0}, {1, 9, 20, false, 0}}, 0, limit, false},
	} {
		var p pacer
		var now replication.Time
		var got paced
		for _, l := range c.load {
			for range l.seconds * int(time.Second/tick) {
				now = now.Add(tick)
				var lat replication.Latency
				for i := range l.n {
					d := time.Duration(l.ms * float64(time.Millisecond))
					if l.slow > 0 && i == 0 {
						d = time.Duration(l.slow * float64(time.Millisecond))
					}
					lat.Add(d)
				}
				got = p.next(now, tick, &lat, l.copying, limit, scrub)
			}
		}
		if rate := got.resync * int64(time.Second/tick); rate < c.lo || rate > c.hi {
			t.Errorf("%s: %d MiB/s, want %d to %d", c.name, rate>>20, c.lo>>20, c.hi>>20)
		}
		if (got.scrub > 0) != c.scrubs {
			t.Errorf("%s: scrub %d", c.name, got.scrub)
		}
	}
}

func TestClientsWaitInFewWindowsOfAResync(t *testing.T) {
	const limit, tick, room = 400 << 20, 20 * time.Millisecond, 60 << 20
	var p pacer
	var now replication.Time
	windows, slow, copied := 0, 0, int64(0)
	rate := int64(0)
	for i := range 60 * int(time.Second/tick) {
		copying := i >= 3*int(time.Second/tick)
		now = now.Add(tick)
		ms := 2.0
		if copying && rate > room { // what the disk does not take beside the clients, they wait for
			ms = 6
		}
		var lat replication.Latency
		for range 20 {
			lat.Add(time.Duration(ms * float64(time.Millisecond)))
		}
		got := p.next(now, tick, &lat, copying, limit, 0)
		if rate = got.resync * int64(time.Second/tick); !copying || i < 10*int(time.Second/tick) {
			continue
		}
		windows++
		copied += got.resync
		if ms > 2 {
			slow++
		}
	}
	if share := 100 * slow / windows; share == 0 || share > 15 {
		t.Errorf("clients wait in %d %% of the time, want some and at most 15", share)
	}
	if mean := copied / 50; mean < room*6/10 {
		t.Errorf("%d MiB/s are copied where %d go unnoticed", mean>>20, room>>20)
	}
}
