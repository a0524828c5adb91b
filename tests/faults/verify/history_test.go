package verify

import (
	"errors"
	"strings"
	"testing"
)

// disk is a volume that does what it is told, until a test makes it lie.
type disk struct {
	h *History
	b map[uint64][]byte
}

func newDisk() *disk {
	return &disk{h: NewHistory([16]byte{1, 2, 3}, 64), b: map[uint64][]byte{}}
}

func (d *disk) begin(lba uint64) (Seq, []byte) {
	p := make([]byte, BlockBytes)
	return d.h.BeginWrite(lba, p), p
}

func (d *disk) write(lba uint64) []byte {
	s, p := d.begin(lba)
	d.b[lba] = p
	d.h.Acked(lba, s)
	return p
}

func (d *disk) unmap(lba uint64) {
	s := d.h.BeginZero(lba)
	delete(d.b, lba)
	d.h.Acked(lba, s)
}

func (d *disk) content(lba uint64) []byte {
	if p, ok := d.b[lba]; ok {
		return p
	}
	return make([]byte, BlockBytes)
}

func (d *disk) read(lba uint64) error { return d.h.EndRead(lba, d.h.BeginRead(lba), d.content(lba)) }

func TestAHonestDiskPasses(t *testing.T) {
	d := newDisk()
	check := func(what string) {
		t.Helper()
		if err := d.read(7); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	check("never written")
	d.write(7)
	check("written once")
	for range 200 {
		d.write(7)
	}
	check("written often")
	d.unmap(7)
	check("unmapped")
	d.write(7)
	check("written after an unmap")

	_, p := d.begin(7)
	check("write in progress, old content")
	d.b[7] = p
	check("write in progress, new content")

	_, _ = d.begin(7) // answered with an error: it may show or not, and a later one covers it
	check("failed write does not show")
	d.write(7)
	check("written after a failed write")
}

func TestAReadMayReturnAnyValueOfItsTime(t *testing.T) {
	d := newDisk()
	old := d.write(3)
	low := d.h.BeginRead(3)
	mid := d.write(3)
	d.unmap(3)
	last := d.write(3)
	for what, p := range map[string][]byte{"before": old} {
		if err := d.h.EndRead(3, low, p); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, p := range [][]byte{mid, make([]byte, BlockBytes), last} {
		if err := d.h.EndRead(3, low, p); err != nil {
			t.Error(err)
		}
	}
}

// Each bug a store could have must be told by the checker, with its own words.
func TestPlantedBugsAreCaught(t *testing.T) {
	for _, c := range []struct {
		name, want string
		do         func(d *disk) error
	}{
		{"an acknowledged write is lost", "acknowledged one has replaced", func(d *disk) error {
			old := d.write(5)
			d.write(5)
			d.b[5] = old
			return d.read(5)
		}},
		{"the first acknowledged write is lost", "is zero", func(d *disk) error {
			d.write(5)
			delete(d.b, 5)
			return d.read(5)
		}},
		{"an unmap is undone", "acknowledged one has replaced", func(d *disk) error {
			old := d.write(5)
			d.unmap(5)
			d.b[5] = old
			return d.read(5)
		}},
		{"two reads disagree about a write in progress", "after a read has returned a newer one", func(d *disk) error {
			old := d.write(5)
			_, p := d.begin(5)
			d.b[5] = p
			if err := d.read(5); err != nil {
				return err
			}
			d.b[5] = old
			return d.read(5)
		}},
		{"a failed write shows and vanishes again", "after a read has returned a newer one", func(d *disk) error {
			old := d.write(5)
			_, p := d.begin(5)
			d.b[5] = p
			_ = d.read(5)
			d.b[5] = old
			return d.read(5)
		}},
		{"a misdirected write", "holds block 6", func(d *disk) error {
			d.write(5)
			d.b[5] = d.write(6)
			return d.read(5)
		}},
		{"a block of another volume", "of volume", func(d *disk) error {
			d.write(5)
			other := &disk{h: NewHistory([16]byte{9}, 64), b: map[uint64][]byte{}}
			d.b[5] = other.write(5)
			return d.read(5)
		}},
		{"a torn block", "torn", func(d *disk) error {
			old := d.write(5)
			p := d.write(5)
			d.b[5] = append(append([]byte{}, p[:2048]...), old[2048:]...)
			return d.read(5)
		}},
		{"one flipped bit", "damaged", func(d *disk) error {
			d.write(5)[1234] ^= 4
			return d.read(5)
		}},
		{"data where nothing was written", "never begun", func(d *disk) error {
			other := newDisk()
			d.b[5] = other.write(5)
			return d.read(5)
		}},
		{"half a block is zero", "torn", func(d *disk) error {
			clear(d.write(5)[:2048])
			return d.read(5)
		}},
		{"an acknowledged write is zero after many others", "is zero", func(d *disk) error {
			d.unmap(5)
			for range 100 {
				d.write(5)
			}
			delete(d.b, 5)
			return d.read(5)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.do(newDisk())
			var v *Violation
			if !errors.As(err, &v) || !strings.Contains(v.What, c.want) {
				t.Fatalf("got %v, want a violation with %q", err, c.want)
			}
		})
	}
}
