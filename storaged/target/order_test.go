package target_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/iscsi/pdu"
	"github.com/iomesh/iomesh/internal/scsi"
	"github.com/iomesh/iomesh/storaged/target"
)

// These tests hold a write inside the volume and check that nothing which promises its end (I14) is answered before.

var (
	older = bytes.Repeat([]byte{1}, 512)
	newer = bytes.Repeat([]byte{2}, 512)
)

// ready reports whether a channel has something, once everything in the bubble has come to rest.
func ready[T any](ch <-chan T) bool {
	synctest.Wait()
	return len(ch) > 0
}

// lateWrite loses a connection with a write in the volume, logs in again, writes the same block, and says what is read in the end.
func lateWrite(t *testing.T, o target.Options) (early bool, content []byte) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, o)
		defer p.close()
		x := p.raw(someone, isid(1))
		p.vol.HoldFirst()
		x.command(write16(0, 1), older, 512)
		p.vol.AwaitHeld(1)
		x.c.Close()

		again := make(chan *initiator.Session, 1)
		go func() {
			s, err := initiator.Dial(t.Context(), initiator.Options{Portals: []string{"pipe"}, Target: p.iqn, Initiator: someone,
				ISID: isid(1), DialContext: p.net.dial})
			if err != nil {
				t.Error(err)
				close(again)
				return
			}
			if err := s.WriteAt(t.Context(), newer, 0); err != nil {
				t.Error(err)
			}
			again <- s
		}()
		early = ready(again)
		p.vol.Release()
		s := <-again
		defer s.Close()
		content = make([]byte, 512)
		if err := s.ReadAt(t.Context(), content, 0); err != nil {
			t.Error(err)
		}
	})
	return early, content
}

func TestOldWriteIsNeverSeenAfterReinstatement(t *testing.T) {
	if early, content := lateWrite(t, target.Options{}); early || !bytes.Equal(content, newer) {
		t.Errorf("login before the old write ended: %v; content is the old write's: %v", early, bytes.Equal(content, older))
	}
}

func TestPlantedEarlyReinstatementIsCaught(t *testing.T) {
	early, content := lateWrite(t, target.PlantEarlyReinstatement(target.Options{}))
	if !early || !bytes.Equal(content, older) {
		t.Error("a session that replaces another before its writes ended went unnoticed")
	}
}

func abortAnswered(t *testing.T, o target.Options, function byte, fromOther bool) (early, answered, responded bool) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, o)
		defer p.close()
		victim := p.raw(someone, isid(1))
		judge := victim
		if fromOther {
			judge = p.raw("iqn.2026-01.test:other", isid(2))
		}
		p.vol.Hold()
		tag := victim.command(write16(0, 1), older, 512)
		p.vol.AwaitHeld(1)
		answers := judge.answers()
		if fromOther {
			others := victim.answers()
			defer func() {
				victim.c.Close()
				for range others {
				}
			}()
		}
		judge.immediate(pdu.TaskReq, function, func(h *pdu.Header) { h.SetRefTag(tag); h.SetRefCmdSN(victim.cmdSN - 1) })
		early = ready(answers)
		p.vol.Release()
		synctest.Wait()
		judge.c.Close()
		for h := range answers {
			switch h.Opcode() {
			case pdu.TaskResp:
				answered = h.Response() == 0
			case pdu.SCSIResp:
				responded = true
			}
		}
	})
	return early, answered, responded
}

func TestTaskManagementIsAnsweredWhenTheWriteHasEnded(t *testing.T) {
	for _, c := range []struct {
		name     string
		function byte
		other    bool
	}{
		{"ABORT TASK", 1, false}, {"ABORT TASK SET", 2, false}, {"CLEAR TASK SET of another initiator", 4, true},
		{"LUN RESET of another initiator", 5, true}, {"TARGET WARM RESET", 6, false}, {"TARGET COLD RESET", 7, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			early, answered, responded := abortAnswered(t, target.Options{}, c.function, c.other)
			if early || !answered || responded {
				t.Errorf("answered early %v, answered %v, aborted command answered %v", early, answered, responded)
			}
		})
	}
}

func TestPlantedEarlyAbortIsCaught(t *testing.T) {
	if early, _, _ := abortAnswered(t, target.PlantEarlyAbort(target.Options{}), 1, false); !early {
		t.Error("an abort answered before the write ended went unnoticed")
	}
}

func TestAbortedCommandWithoutItsDataNeverTakesEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, target.Options{})
		defer p.close()
		x := p.raw(someone, isid(1))
		answers := x.answers()
		// A write whose data are still to come by R2T.
		var h pdu.Header
		h.SetOpcode(pdu.SCSICmd)
		h.SetFlags(pdu.Final | pdu.Write)
		h.SetExpectedLen(512)
		h.SetLUN(pdu.LUNOf(1))
		h.SetITT(77)
		h.SetCmdSN(x.cmdSN)
		x.cmdSN++
		copy(h.CDB(), write16(0, 1))
		x.send(&h, nil)
		r2t := <-answers
		if r2t.Opcode() != pdu.R2T {
			t.Fatalf("opcode %#x instead of R2T", r2t.Opcode())
		}
		x.immediate(pdu.TaskReq, 1, func(h *pdu.Header) { h.SetRefTag(77); h.SetRefCmdSN(x.cmdSN - 1) })
		if a := <-answers; a.Opcode() != pdu.TaskResp || a.Response() != 0 {
			t.Fatalf("abort answered with opcode %#x response %d", a.Opcode(), a.Response())
		}
		// The data come nevertheless.
		var d pdu.Header
		d.SetOpcode(pdu.DataOut)
		d.SetFlags(pdu.Final)
		d.SetLUN(pdu.LUNOf(1))
		d.SetITT(77)
		d.SetTTT(r2t.TTT())
		x.send(&d, older)
		x.command(read16(0, 1), nil, 512)
		if a := <-answers; a.Opcode() != pdu.DataIn {
			t.Fatalf("opcode %#x instead of data", a.Opcode())
		}
		got := make([]byte, 512)
		c := &target.Command{Op: target.OpRead, Length: 512, Data: got, Done: func(*target.Command, target.Result) {}}
		p.vol.Submit(c)
		if !bytes.Equal(got, make([]byte, 512)) {
			t.Error("data of an aborted command were written")
		}
		x.c.Close()
		for range answers {
		}
	})
}

func TestLogoutIsAnsweredWhenTheWriteHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, target.Options{})
		defer p.close()
		x := p.raw(someone, isid(1))
		p.vol.Hold()
		x.command(write16(0, 1), older, 512)
		p.vol.AwaitHeld(1)
		answers := x.answers()
		x.immediate(pdu.LogoutReq, 0, nil)
		if ready(answers) {
			t.Error("logout was answered while a write was in progress")
		}
		p.vol.Release()
		if h, ok := <-answers; !ok || h.Opcode() != pdu.LogoutResp || h.Response() != 0 {
			t.Errorf("logout answered with opcode %#x response %d", h.Opcode(), h.Response())
		}
		if _, more := <-answers; more {
			t.Error("connection goes on after logout")
		}
	})
}

func TestCloseSessionsReturnsWhenWritesHaveEndedAndRefusesNewLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, target.Options{})
		defer p.close()
		p.dir.Grant(p.iqn, someone, target.Grant{Generation: 5})
		x := p.raw(someone, isid(1))
		p.vol.Hold()
		x.command(write16(0, 1), older, 512)
		p.vol.AwaitHeld(1)
		p.dir.Revoke(p.iqn, someone)
		closed := make(chan int, 1)
		go func() {
			n, err := p.srv.CloseSessions(context.Background(), p.iqn, someone)
			if err != nil {
				t.Error(err)
			}
			closed <- n
		}()
		if ready(closed) {
			t.Error("returned while a write was in progress")
		}
		p.vol.Release()
		if n := <-closed; n != 1 {
			t.Errorf("closed %d sessions, want 1", n)
		}
		_, err := initiator.Dial(t.Context(), initiator.Options{Portals: []string{"pipe"}, Target: p.iqn, Initiator: someone, DialContext: p.net.dial})
		if err == nil {
			t.Error("logged in without a grant")
		}
	})
}

func TestRevokedGrantEndsAParkedLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, target.Options{})
		defer p.close()
		p.dir.Grant(p.iqn, someone, target.Grant{Generation: 5})
		// The login is let through Lookup, then waits for the session it replaces.
		x := p.raw(someone, isid(1))
		p.vol.Hold()
		x.command(write16(0, 1), older, 512)
		p.vol.AwaitHeld(1)
		failed := make(chan error, 1)
		c, err := p.net.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := rawLogin(t, c, p.iqn, someone, isid(1), initiatorWishes)
			failed <- err
		}()
		synctest.Wait()
		p.dir.Revoke(p.iqn, someone)
		closed := make(chan struct{}, 1)
		go func() {
			_, _ = p.srv.CloseSessions(context.Background(), p.iqn, someone)
			closed <- struct{}{}
		}()
		synctest.Wait()
		p.vol.Release()
		<-closed
		if err := <-failed; err == nil {
			t.Error("a login that had begun before the grant was withdrawn succeeded")
		}
		if n := len(p.srv.Sessions(p.iqn)); n != 0 {
			t.Errorf("%d sessions", n)
		}
		c.Close()
	})
}

func TestPreemptAndAbortIsAnsweredWhenTheVictimsWriteHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, target.Options{})
		defer p.close()
		victim, winner := p.raw("iqn.2026-01.test:victim", isid(1)), p.raw("iqn.2026-01.test:winner", isid(2))
		va, wa := victim.answers(), winner.answers()
		reserve := func(x *raw, answers <-chan pdu.Header, action, kind byte, key, service uint64) byte {
			x.reserveOut(action, kind, key, service)
			h := <-answers
			return h.SCSIStatus()
		}
		for _, s := range []byte{
			reserve(victim, va, scsi.PRRegister, 0, 0, 11),
			reserve(winner, wa, scsi.PRRegister, 0, 0, 22),
			reserve(victim, va, scsi.PRReserve, 1, 11, 0),
		} {
			if s != 0 {
				t.Fatalf("status %#x", s)
			}
		}
		p.vol.Hold()
		victim.command(write16(0, 1), older, 512)
		p.vol.AwaitHeld(1)
		winner.reserveOut(scsi.PRPreemptAbort, 1, 22, 11)
		if ready(wa) {
			t.Error("answered while the victim's write was in progress")
		}
		p.vol.Release()
		if h := <-wa; h.SCSIStatus() != 0 {
			t.Errorf("status %#x", h.SCSIStatus())
		}
		// The victim is told, then fenced.
		victim.command(write16(0, 1), older, 512)
		if h := <-va; h.SCSIStatus() != byte(scsi.CheckCondition) {
			t.Errorf("victim got status %#x, want a unit attention", h.SCSIStatus())
		}
		victim.command(write16(0, 1), older, 512)
		if h := <-va; h.SCSIStatus() != byte(scsi.ReservationConflict) {
			t.Errorf("victim got status %#x, want RESERVATION CONFLICT", h.SCSIStatus())
		}
		victim.c.Close()
		winner.c.Close()
		for range va {
		}
		for range wa {
		}
	})
}

func TestLostVolumeDropsSessionsWithoutAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, target.Options{})
		defer p.close()
		x := p.raw(someone, isid(1))
		answers := x.answers()
		p.vol.Hold()
		x.command(write16(0, 1), older, 512)
		p.vol.AwaitHeld(1)
		p.vol.ReleaseWith(target.Result{Kind: target.Lost})
		if h, answered := <-answers; answered {
			t.Errorf("got opcode %#x, want the end of the connection", h.Opcode())
		}
		if err := p.srv.CloseVolume(t.Context(), p.iqn, target.VolumeLost); err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
