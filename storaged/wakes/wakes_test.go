package wakes

import "testing"

type sleeper struct{ woken int }

func (s *sleeper) Wake() { s.woken++ }

func TestEveryoneIsWokenOnceHoweverMuchWorkThereIs(t *testing.T) {
	for _, n := range []int{1, 8, 9, 20} {
		var l List
		all := make([]sleeper, n)
		for range 3 {
			for i := range all {
				l.Later(&all[i])
			}
		}
		for i := range all {
			if all[i].woken != 0 {
				t.Fatalf("%d of %d was woken before the end", i, n)
			}
		}
		l.Wake()
		l.Wake()
		for i := range all {
			if all[i].woken != 1 {
				t.Errorf("%d of %d was woken %d times", i, n, all[i].woken)
			}
		}
		l.Later(&all[0])
		l.Wake()
		if all[0].woken != 2 {
			t.Errorf("of %d: a list that was used before wakes nobody", n)
		}
	}
}

func TestWithoutAListWorkWakesAtOnce(t *testing.T) {
	var s sleeper
	(*List)(nil).Later(&s)
	if s.woken != 1 {
		t.Errorf("woken %d times", s.woken)
	}
}

// chain gives work to another while it is woken.
type chain struct {
	l    *List
	next *sleeper
}

func (c *chain) Wake() { c.l.Later(c.next) }

func TestWorkGivenWhileWakingIsNotForgotten(t *testing.T) {
	var l List
	var s sleeper
	l.Later(&chain{&l, &s})
	l.Wake()
	if s.woken != 1 {
		t.Errorf("woken %d times", s.woken)
	}
}
