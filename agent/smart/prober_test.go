package smart

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// rig is a prober with a clock and disks of the test.
type rig struct {
	*Prober
	mu      sync.Mutex
	clock   time.Time
	asked   map[string]int
	answers map[string][]byte
	hang    map[string]chan struct{}
	entered chan struct{}
	changes int
}

func newRig() *rig {
	r := &rig{clock: time.Unix(1e9, 0), asked: map[string]int{}, answers: map[string][]byte{}, hang: map[string]chan struct{}{}}
	r.Prober = New(r.device, func() time.Time { return r.clock }, slog.New(slog.DiscardHandler), func() {
		r.mu.Lock()
		r.changes++
		r.mu.Unlock()
	})
	return r
}

func (r *rig) device(path string) (Commands, error) {
	r.mu.Lock()
	r.asked[path]++
	log, hang := r.answers[path], r.hang[path]
	r.mu.Unlock()
	if hang != nil {
		r.entered <- struct{}{}
		<-hang
	}
	return &fake{log: log}, nil
}

func nvme(name string) *blockdev.Device {
	return &blockdev.Device{KernelName: name, Path: "/dev/" + name, Type: blockdev.Disk, Transport: "nvme", Drive: v1alpha1.DriveNVMe, Key: blockdev.Key{Serial: name}}
}

// round asks what is due and waits for all but those that hang.
func (r *rig) round(devices ...*blockdev.Device) {
	r.See(devices)
	r.askDue()
	if len(r.hang) == 0 {
		r.wg.Wait()
	}
}

func TestADiskIsAskedWhenItIsNewAndThenEachSixHours(t *testing.T) {
	r, a := newRig(), nvme("nvme0n1")
	r.answers[a.Path] = nvmeLog(nil)
	part := &blockdev.Device{KernelName: "nvme0n1p1", Type: blockdev.Partition, Parent: a.KernelName}
	all := []*blockdev.Device{a, part, {KernelName: "vda", Type: blockdev.Disk, Transport: "virtio"}, {KernelName: "loop0", Type: blockdev.Loop}}
	for range 3 {
		r.round(all...)
	}
	if len(r.asked) != 1 || r.asked[a.Path] != 1 || r.changes != 1 {
		t.Fatalf("asked %v, %d changes", r.asked, r.changes)
	}
	for _, d := range []*blockdev.Device{a, part} {
		if f := r.Of(d, all); f == nil || f.Verdict != Passed || !f.At.Equal(r.clock) {
			t.Errorf("%s has %+v", d.KernelName, f)
		}
	}
	r.clock = r.clock.Add(Every)
	r.round(all...)
	if r.asked[a.Path] != 2 || r.changes != 1 {
		t.Fatalf("after six hours: asked %v, %d changes by an equal answer", r.asked, r.changes)
	}
	r.clock = r.clock.Add(Every)
	r.answers[a.Path] = nvmeLog(map[int]byte{0: 4})
	r.round(all...)
	if f := r.Of(a, all); r.changes != 2 || f == nil || !f.Failing() {
		t.Fatalf("a failure is not noticed: %+v", f)
	}
	a.DiskSeq = 7
	again := nvme("nvme0n1")
	again.DiskSeq = 8
	r.round(again)
	if r.asked[a.Path] != 4 {
		t.Error("a disk that was plugged in again is not asked")
	}
	r.round()
	if r.Of(again, nil) != nil {
		t.Error("a disk that has gone is remembered")
	}
}

func TestADiskThatHangsIsAskedOnceAndHoldsUpNoOther(t *testing.T) {
	r, a, b := newRig(), nvme("nvme0n1"), nvme("nvme1n1")
	r.answers[b.Path] = nvmeLog(nil)
	hang := make(chan struct{})
	r.hang[a.Path], r.entered = hang, make(chan struct{}, 10)
	told := make(chan struct{}, 1)
	r.change = func() { told <- struct{}{} }
	r.round(a, b)
	<-r.entered
	<-told
	if r.Of(b, nil) == nil || r.Of(a, nil) != nil {
		t.Fatal("the disk that answers has no report, or the other has one")
	}
	for range 3 {
		r.clock = r.clock.Add(Every)
		r.round(a)
		r.round() // it vanishes and comes back
	}
	r.mu.Lock()
	n := r.asked[a.Path]
	r.mu.Unlock()
	if n != 1 {
		t.Errorf("a disk that hangs was asked %d times", n)
	}
	close(hang)
	r.wg.Wait()
}
