package sim

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/replication"
)

// scenario plays the stories in testdata: a small cluster without random load or faults. Commands, chunks being numbered from 1:
//
//	cluster chunks=3 members=1,2 owner=1 [replicas=2] [min=1] [clients=1] [deltas]
//	write block [count]     one request; says how it ended
//	read block [count]      what was read: w3 is what the third write wrote, - what nobody wrote
//	start-write block       begins a write and does not wait
//	give-up                 the client has gone: what it began is not repeated
//	snapshot                takes one; read-view VIEW block reads from it
//	kill N, power N, start N, freeze N 3s, isolate N, join N, cut FROM TO, heal FROM TO, rot N block, full N, space N
//	budget BLOCKS           what resync may copy per tick; 0 holds it
//	save N, rollback N      remembers what a disk holds; puts it back
//	move N                  planned move of the volume
//	run 2s                  lets time pass
//	status                  owner and sets
//	copied                  what resync has copied
//	check                   members equal, history of every block linearizable
type scenario struct {
	w      *World
	values map[uint32]int
	writes int
	rolled map[block.ExtentIndex]*replica
}

func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &scenario{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			var b strings.Builder
			if d.Cmd == "cluster" {
				b.WriteString(s.cluster(t, d))
			}
			for line := range strings.Lines(d.Input) {
				f := strings.Fields(line)
				if len(f) == 0 {
					continue
				}
				fmt.Fprintf(&b, "%s: %s\n", strings.Join(f, " "), s.command(t, f))
				if s.w.bad != nil {
					fmt.Fprintf(&b, "VIOLATION %s\n", s.w.bad.What)
					break
				}
			}
			return b.String()
		})
	})
}

func (s *scenario) cluster(t *testing.T, d *datadriven.TestData) string {
	var chunks, owner int
	var members []int
	c := Config{Seed: 1, Extents: 1, Replicas: 2, MinReplicas: 1, Clients: 1, Length: 3600 * sec, Net: 150 * us, Disk: 300 * us, Think: 1, Budget: 40}
	d.ScanArgs(t, "chunks", &chunks)
	d.ScanArgs(t, "owner", &owner)
	var list string
	d.ScanArgs(t, "members", &list)
	for f := range strings.SplitSeq(list, "+") {
		var n int
		_, _ = fmt.Sscan(f, &n)
		members = append(members, n)
	}
	d.MaybeScanArgs(t, "replicas", &c.Replicas)
	d.MaybeScanArgs(t, "min", &c.MinReplicas)
	d.MaybeScanArgs(t, "clients", &c.Clients)
	c.Deltas = d.HasArg("deltas")
	c.Chunks = chunks
	s.w = newWorld(c)
	s.values, s.writes, s.rolled = map[uint32]int{0: 0}, 0, nil
	w := s.w
	rec := replication.Record{Generation: 1, Revision: w.meta.next()}
	for _, n := range members {
		k := w.chunks[n-1]
		k.disks[0].create(0, 1)
		rec.Members = append(rec.Members, replication.Member{Disk: k.disks[0].id, Chunk: k.id})
	}
	w.meta.extents, w.meta.since = append(w.meta.extents, rec), []int64{0}
	w.rot = nil
	for _, k := range w.chunks {
		k.boot()
	}
	w.meta.assign(w.chunks[owner-1])
	w.after(100*ms, w.meta.lead)
	w.stop = true
	for i := range c.Clients {
		k := newClient(w, i)
		k.patience = 2 * sec
		w.clients = append(w.clients, k)
	}
	w.run(300 * ms)
	return s.status()
}

func (s *scenario) command(t *testing.T, f []string) string {
	w := s.w
	num := func(i int) int {
		n := 1
		if i < len(f) {
			if _, err := fmt.Sscan(f[i], &n); err != nil {
				t.Fatalf("%v: %v", f, err)
			}
		}
		return n
	}
	dur := func(i int) int64 {
		d, err := time.ParseDuration(f[i])
		if err != nil {
			t.Fatal(err)
		}
		return d.Nanoseconds()
	}
	chunk := func() *chunk { return w.chunks[num(1)-1] }
	switch f[0] {
	case "write", "start-write":
		s.writes++
		o := &ioOp{kind: opWrite, rng: block.Range{Start: block.No(num(1)), Count: uint32(num(2))}}
		n := s.writes
		w.clients[0].begin(o)
		if f[0] == "start-write" {
			s.note(o, n)
			w.run(w.now + 50*ms)
			return fmt.Sprintf("w%d begun", n)
		}
		r := s.wait(o)
		s.note(o, n)
		return fmt.Sprintf("w%d %s", n, r)
	case "read", "read-view":
		o := &ioOp{kind: opRead, view: block.LiveView, rng: block.Range{Start: block.No(num(1)), Count: uint32(num(2))}}
		if f[0] == "read-view" {
			o.kind, o.view, o.rng = opView, block.SnapSeq(num(1)), block.Range{Start: block.No(num(2)), Count: uint32(num(3))}
		}
		w.clients[0].begin(o)
		r := s.wait(o)
		switch {
		case o.got == nil:
			return r
		case strings.HasPrefix(r, "error"):
			return s.show(o.got) + " with an error"
		}
		return s.show(o.got)
	case "snapshot":
		o := &ioOp{kind: opBarrier, rng: block.Range{Start: 1, Count: 1}}
		w.clients[0].begin(o)
		return s.wait(o) + fmt.Sprintf(", views %v", w.meta.views)
	case "kill", "power":
		chunk().die(f[0] == "power")
	case "start":
		w.revive(chunk())
	case "freeze":
		chunk().frozenTill = w.now + dur(2)
	case "isolate":
		chunk().metaCut = true
		w.cutOff(chunk())
	case "join":
		w.join(chunk())
	case "cut":
		w.net.setCut(num(1)-1, num(2)-1, true)
	case "give-up":
		for _, o := range slices.Clone(w.clients[0].open) {
			w.clients[0].close(o)
		}
	case "heal":
		w.net.setCut(num(1)-1, num(2)-1, false)
	case "rot":
		for _, m := range []map[block.ExtentIndex]*replica{chunk().disks[0].seen, chunk().disks[0].durable} {
			vs := m[0].blocks[num(2)]
			vs[len(vs)-1].bad = true
		}
	case "budget":
		w.cfg.Budget = num(1)
	case "full", "space":
		chunk().disks[0].full = f[0] == "full"
	case "save":
		s.rolled = map[block.ExtentIndex]*replica{0: chunk().disks[0].durable[0].clone()}
	case "rollback":
		// The disk comes back as it was at "save", and nothing but its content tells.
		d := chunk().disks[0]
		d.durable[0], d.seen[0] = s.rolled[0].clone(), s.rolled[0].clone()
	case "move":
		w.move(chunk())
		w.run(w.now + 1*sec)
	case "run":
		w.run(w.now + dur(1))
	case "copied":
		return fmt.Sprintf("%d blocks by resync so far", w.Stats.Copied)
	case "status":
		return "\n" + s.status()
	case "check":
		w.run(w.now + 200*ms)
		w.compareMembers()
		w.judge()
		if w.bad == nil {
			return "well"
		}
	default:
		t.Fatalf("unknown command %q", f[0])
	}
	return "ok"
}

// note remembers the values of all attempts of a write.
func (s *scenario) note(o *ioOp, n int) {
	for _, at := range o.first {
		for i := range o.rng.Count {
			if ops := s.w.ops[int(o.rng.Start)+int(i)]; at < len(ops) && ops[at].Write {
				if _, ok := s.values[ops[at].Value]; !ok {
					s.values[ops[at].Value] = n
				}
			}
		}
	}
}

// wait lets time pass until a request has ended, and says how long it took, coarsely.
func (s *scenario) wait(o *ioOp) string {
	w := s.w
	from := w.now
	errors := w.Stats.Errors
	for w.bad == nil && o.c.isOpen(o) {
		if w.now-from > 30*sec {
			return "open after 30s"
		}
		w.run(w.now + 10*ms)
	}
	took := "at once"
	if d := w.now - from; d > 60*ms {
		took = "within " + (time.Duration(d/(500*ms)+1) * 500 * time.Millisecond).String()
	}
	if w.Stats.Errors > errors {
		return "error " + took
	}
	return "done " + took
}

func (s *scenario) show(got []uint32) string {
	var b []string
	for _, v := range got {
		switch n, ok := s.values[v]; {
		case v == 0:
			b = append(b, "-")
		case ok:
			b = append(b, fmt.Sprintf("w%d", n))
		default:
			b = append(b, "?")
		}
	}
	return strings.Join(b, " ")
}

func (s *scenario) status() string {
	m := &s.w.meta
	var b strings.Builder
	fmt.Fprintf(&b, "owner %d epoch %d\n", m.owner.id, m.epoch)
	for x, r := range m.extents {
		fmt.Fprintf(&b, "extent %d generation %d members", x, r.Generation)
		for _, mb := range r.Members {
			fmt.Fprintf(&b, " %d", mb.Chunk)
			if mb.Kind == replication.Delta {
				fmt.Fprintf(&b, " (delta since %s)", mb.Since)
			}
		}
		for _, a := range r.Absent {
			fmt.Fprintf(&b, " absent %d at %s", a.Chunk, a.Watermark)
		}
		b.WriteString("\n")
	}
	return b.String()
}
