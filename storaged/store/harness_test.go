package store

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
)

var testCluster = block.ClusterID{0xc1}

// waiter is a Completer one can wait for.
type waiter struct{ wg sync.WaitGroup }

func (w *waiter) Complete(done []*Write) {
	for range done {
		w.wg.Done()
	}
}

// run submits a write and waits for its outcome.
func run(s *Store, w *Write) error {
	var c waiter
	c.wg.Add(1)
	w.Completer = &c
	s.Submit(w)
	c.wg.Wait()
	return w.Err
}

// quiet are options with which nothing happens by itself.
func quiet() Options { return Options{DestageIdle: -1, StallAfter: -1} }

func newSim(t testing.TB, size, journal int64) *vdisk.Sim {
	t.Helper()
	d := vdisk.NewSim("sim", size)
	if err := Format(context.Background(), d, FormatOptions{Cluster: testCluster, DiskID: block.DiskID{1}, JournalBytes: journal}); err != nil {
		t.Fatal(err)
	}
	return d
}

func mustOpen(t testing.TB, d vdisk.Disk, o Options) *Store {
	t.Helper()
	s, err := Open(context.Background(), d, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mustClose(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func ext(v byte, i uint32) block.ExtentID {
	return block.ExtentID{Volume: block.VolumeID{v}, Index: block.ExtentIndex(i)}
}

func mustReplica(t testing.TB, s *Store, e block.ExtentID) {
	t.Helper()
	if err := s.EnsureReplica(context.Background(), ReplicaSpec{Extent: e, Lineage: e.Volume, Generation: 1}); err != nil {
		t.Fatal(err)
	}
}

// pattern fills p with what block b holds after the write with this stamp.
func pattern(p []byte, b block.No, stamp uint64) {
	x := stamp*0x9e3779b97f4a7c15 ^ uint64(b)*0xbf58476d1ce4e5b9
	for i := 0; i+8 <= block.Size; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(p[i:], x)
	}
}

func patterns(r block.Range, stamp uint64) []byte {
	p := vdisk.Aligned(r.SizeBytes())
	for i := range r.Count {
		pattern(p[int(i)*block.Size:], r.Start+block.No(i), stamp)
	}
	return p
}

func dataWrite(e block.ExtentID, seq block.SnapSeq, r block.Range, stamp uint64) *Write {
	return &Write{Extent: e, Kind: Data, Range: r, Stamp: block.Stamp(stamp), SnapSeq: seq, Data: patterns(r, stamp)}
}

func rng(start, count uint32) block.Range { return block.Range{Start: block.No(start), Count: count} }

// within fails the test if f takes implausibly long: a deadlock, not slowness.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatalf("%s does not end", what)
	}
}

func isErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error %v, want %v", err, want)
	}
}

func sortDurations(d []time.Duration) { slices.Sort(d) }
