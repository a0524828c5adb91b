package store

import "testing"

func TestASpareNodeIsTakenInsteadOfANewOne(t *testing.T) {
	var s spareNodes
	old := s.copy(nil)
	old.slot[3], old.disk = 7, 9
	if n := testing.AllocsPerRun(100, func() {
		c := s.copy(old)
		if c.slot[3] != 7 || c.disk != 0 || c.refs.Load() != 1 {
			t.Fatal("the copy is not equal, or on disk")
		}
		s.replaced(c)
		s.installed()
	}); n > 0 {
		t.Errorf("a copy with a spare node at hand allocates %.0f times", n)
	}
}
