package chunk

import "testing"

// A leader that learns late that a disk answers again takes its replicas, which are in sync, out of their sets.
func TestTheStateOfADiskIsToldAtOnce(t *testing.T) {
	c := newTestCluster(t, 1, 1)
	var s *Server
	for _, n := range c.nodes {
		s = n.server
	}
	r := newReporter(s)
	d := s.disks.all()[0]
	r.report(true)
	if h := r.report(false); len(h.Disks) != 0 {
		t.Errorf("told of %d disks of which there is nothing new", len(h.Disks))
	}
	d.stalled.Store(new("test"))
	if h := r.report(false); len(h.Disks) != 1 || h.Disks[0].Disk.State != "Stalled" {
		t.Errorf("a disk stalls: %v", h.Disks)
	}
	d.stalled.Store(nil)
	if h := r.report(false); len(h.Disks) != 1 || h.Disks[0].Disk.State != "Active" {
		t.Errorf("it answers again: %v", h.Disks)
	}
	if h := r.report(false); len(h.Disks) != 0 {
		t.Errorf("told again of %v", h.Disks)
	}
}
