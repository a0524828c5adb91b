package target_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/scsi"
	"github.com/iomesh/iomesh/storaged/target"
)

func TestRandomOperationsMatchAByteSlice(t *testing.T) {
	for _, mode := range []string{"plain", "digests", "volume lends reads"} {
		digests := mode == "digests"
		t.Run(mode, func(t *testing.T) {
			r := newRig(t, target.Options{})
			if mode == "volume lends reads" {
				r.vol.LendReads()
			}
			s := r.dial(someone, func(o *initiator.Options) { o.HeaderDigest, o.DataDigest = digests, digests })
			ctx := r.ctx()
			const size = 16 << 20
			model := make([]byte, size)
			rng := rand.New(rand.NewPCG(1, 2))
			for range 400 {
				n := uint64(rng.IntN(64)+1) * 512
				if rng.IntN(20) == 0 {
					n = uint64(rng.IntN(6<<20)+512) &^ 511
				}
				at := rng.Uint64N((size-n)/512+1) * 512
				var err error
				switch rng.IntN(6) {
				case 0, 1:
					b := random(int(n))
					copy(model[at:], b)
					err = s.WriteAt(ctx, b, at)
				case 2:
					clear(model[at : at+n])
					err = s.Unmap(ctx, at, n)
				case 3:
					clear(model[at : at+n])
					err = s.WriteZeroes(ctx, at, n)
				case 4:
					err = s.Flush(ctx)
				default:
					b := make([]byte, n)
					err = s.ReadAt(ctx, b, at)
					if err == nil && !bytes.Equal(b, model[at:at+n]) {
						t.Fatalf("%d bytes at %d differ from what was written", n, at)
					}
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			b := make([]byte, size)
			if err := s.ReadAt(ctx, b, 0); err != nil || !bytes.Equal(b, model) {
				t.Fatalf("final content differs (%v)", err)
			}
			eventually(t, "lent memory is given back", func() bool { return r.vol.LentBytes() == 0 })
			c := s.Counters()
			if c.Reconnects != 0 {
				t.Errorf("%d reconnects without a fault", c.Reconnects)
			}
			if info := r.srv.Sessions(r.iqn); len(info) != 1 || info[0].HeaderDigest != digests {
				t.Errorf("sessions: %+v", info)
			}
		})
	}
}

func TestErrorsOfTheVolumeReachTheInitiatorAsSense(t *testing.T) {
	for _, c := range []struct {
		name   string
		result target.Result
		want   initiator.StatusError
	}{
		{"a medium error names its block", target.Result{Kind: target.MediumError, Offset: 4096},
			initiator.StatusError{Status: scsi.CheckCondition, Sense: scsi.Sense{Key: scsi.MediumError, Code: scsi.WriteError, HasInfo: true, Info: 8}}},
		{"no space", target.Result{Kind: target.SpaceExhausted},
			initiator.StatusError{Status: scsi.CheckCondition, Sense: scsi.Sense{Key: scsi.DataProtect, Code: scsi.SpaceAllocationFailed}}},
		{"write protected", target.Result{Kind: target.WriteProtected},
			initiator.StatusError{Status: scsi.CheckCondition, Sense: scsi.Sense{Key: scsi.DataProtect, Code: scsi.WriteProtected}}},
		{"internal", target.Result{Kind: target.Internal},
			initiator.StatusError{Status: scsi.CheckCondition, Sense: scsi.Sense{Key: scsi.HardwareError, Code: scsi.InternalTargetFailure}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, target.Options{})
			s := r.dial(someone)
			r.vol.Fail(func(*target.Command) target.Result { return c.result })
			err := s.WriteAt(r.ctx(), random(4096), 4096)
			if !errors.Is(err, &c.want) {
				t.Fatalf("got %v, want %v", err, &c.want)
			}
			// The unit is not dead.
			r.vol.Fail(nil)
			if err := s.WriteAt(r.ctx(), random(4096), 4096); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestReadOnlyGrantRefusesWrites(t *testing.T) {
	r := newRig(t, target.Options{})
	r.dir.Grant(r.iqn, someone, target.Grant{ReadOnly: true})
	s := r.dial(someone)
	want := &initiator.StatusError{Status: scsi.CheckCondition, Sense: scsi.Sense{Key: scsi.DataProtect, Code: scsi.WriteProtected}}
	if err := s.WriteAt(r.ctx(), random(512), 0); !errors.Is(err, want) {
		t.Errorf("write: %v", err)
	}
	if err := s.Unmap(r.ctx(), 0, 4096); !errors.Is(err, want) {
		t.Errorf("unmap: %v", err)
	}
	if err := s.ReadAt(r.ctx(), make([]byte, 512), 0); err != nil {
		t.Errorf("read: %v", err)
	}
}

func TestResizeIsNoticed(t *testing.T) {
	r := newRig(t, target.Options{})
	sizes := make(chan uint64, 4)
	s := r.dial(someone, func(o *initiator.Options) { o.OnResize = func(n uint64) { sizes <- n } })
	r.vol.Resize(96 << 20)
	r.srv.Resized(r.iqn)
	if err := s.ReadAt(r.ctx(), make([]byte, 512), 0); err != nil {
		t.Fatal(err) // the unit attention costs a repetition, not an error
	}
	if n := <-sizes; n != 96<<20 {
		t.Errorf("told size %d", n)
	}
	if err := s.WriteAt(r.ctx(), random(4096), 96<<20-4096); err != nil {
		t.Error(err)
	}
}

func TestIdentity(t *testing.T) {
	r := newRig(t, target.Options{})
	s := r.dial(someone)
	c, err := s.ReadCapacity(r.ctx())
	if err != nil || c != (initiator.Capacity{SizeBytes: 64 << 20, BlockBytes: 512, PhysicalBlockBytes: 4096, Thin: true, UnmappedReadsZero: true}) {
		t.Errorf("capacity %+v, %v", c, err)
	}
	serial, err := s.Serial(r.ctx())
	if err != nil || serial != r.id.Serial() {
		t.Errorf("serial %q, %v", serial, err)
	}
	b, err := s.Inquiry(r.ctx(), true, 0x83)
	naa := r.id.NAA()
	if err != nil || !bytes.Contains(b, naa[:]) {
		t.Errorf("page 83h lacks the NAA designator: %x, %v", b, err)
	}
	var cdb [6]byte
	req := &initiator.Request{Op: initiator.Raw, Data: make([]byte, 96), LUN0: true}
	copy(req.CDB[:], append(cdb[:0], scsi.OpInquiry, 0, 0, 0, 96))
	if err := s.Do(r.ctx(), req); err != nil || req.Data[0] != scsi.PeripheralCapable {
		t.Errorf("LUN 0 answers %#02x, %v", req.Data[0], err)
	}
}

func TestEveryKindOfResultHasAStatus(t *testing.T) {
	if err := target.CheckStatusTable(); err != nil {
		t.Error(err)
	}
}

func TestCompareAndWriteIsAtomic(t *testing.T) {
	r := newRig(t, target.Options{})
	ctx := r.ctx()
	const initiators, each = 4, 50
	// Every initiator counts up one 64-bit number by compare and write; no step is lost.
	done := make(chan error, initiators)
	for i := range initiators {
		s := r.dial(fmt.Sprintf("iqn.2026-01.test:%d", i))
		go func() {
			done <- func() error {
				for range each {
					for {
						b := make([]byte, 1024)
						if err := s.ReadAt(ctx, b[:512], 0); err != nil {
							return err
						}
						copy(b[512:], b[:512])
						for j := 519; j >= 512; j-- {
							if b[j]++; b[j] != 0 {
								break
							}
						}
						cdb := make([]byte, 16)
						cdb[0], cdb[13] = scsi.OpCompareAndWrite, 1
						_, err := s.Command(ctx, cdb, b, true)
						if err == nil {
							break
						}
						var e *initiator.StatusError
						if !errors.As(err, &e) || e.Sense.Key != scsi.Miscompare {
							return err
						}
					}
				}
				return nil
			}()
		}()
	}
	for range initiators {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	b := make([]byte, 512)
	s := r.dial(someone)
	if err := s.ReadAt(ctx, b, 0); err != nil {
		t.Fatal(err)
	}
	if got := int(b[6])<<8 | int(b[7]); got != initiators*each {
		t.Errorf("counted %d, want %d", got, initiators*each)
	}
}

func TestReservationsSurviveAMoveOfTheOwner(t *testing.T) {
	r := newRig(t, target.Options{})
	holder, other := r.dial("iqn.2026-01.test:holder"), r.dial("iqn.2026-01.test:other")
	out := func(s *initiator.Session, action, kind byte, key, service byte) error {
		data := make([]byte, 24)
		data[7], data[15] = key, service
		_, err := s.Command(r.ctx(), []byte{scsi.OpPROut, action, kind, 0, 0, 0, 0, 0, 24}, data, true)
		return err
	}
	for _, err := range []error{out(holder, scsi.PRRegister, 0, 0, 5), out(holder, scsi.PRReserve, 1, 5, 0)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// The volume goes to another server, and both initiators with it.
	next := newRig(t, target.Options{})
	next.dir.ServeIQN(r.iqn, r.vol)
	r.dir.Redirect(r.iqn, next.address)
	if err := r.srv.CloseVolume(r.ctx(), r.iqn, target.VolumeMoved); err != nil {
		t.Fatal(err)
	}
	conflict := &initiator.StatusError{Status: scsi.ReservationConflict}
	if err := other.WriteAt(r.ctx(), random(512), 0); !errors.Is(err, conflict) {
		t.Errorf("after the move another initiator's write ended with %v", err)
	}
	if err := holder.WriteAt(r.ctx(), random(512), 0); err != nil {
		t.Errorf("after the move the holder's write ended with %v", err)
	}
	if at, _ := holder.Portal(); at != next.address {
		t.Errorf("holder is at %s, want %s", at, next.address)
	}
}

func TestInitiatorsRangesAreWhatTheTargetTakes(t *testing.T) {
	if initiator.MaxTransfer != target.MaxTransferBytes || initiator.MaxRange != target.MaxUnmapBytes || initiator.MaxZero != target.MaxZeroBytes {
		t.Error("the initiator cuts requests at other sizes than the target takes")
	}
	r := newRig(t, target.Options{})
	r.vol.Resize(2 * target.MaxUnmapBytes)
	s := r.dial(someone)
	if err := s.WriteAt(r.ctx(), random(4096), 700<<20); err != nil {
		t.Fatal(err)
	}
	if err := s.Unmap(r.ctx(), 0, 2*target.MaxUnmapBytes); err != nil {
		t.Error(err)
	}
	got := make([]byte, 4096)
	if err := s.ReadAt(r.ctx(), got, 700<<20); err != nil || !bytes.Equal(got, make([]byte, 4096)) {
		t.Errorf("after UNMAP: %v", err)
	}
}
