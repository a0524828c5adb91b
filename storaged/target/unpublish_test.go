package target_test

import (
	"bytes"
	"testing"
	"testing/synctest"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/storaged/target"
)

// unpublish withdraws the sessions of an initiator with a write in the volume. It says whether that was reported as done before the write had
// ended, and whether the write still changed what the next user had written by then.
func unpublish(t *testing.T, o target.Options) (early, overwritten bool) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, o)
		defer p.close()
		x := p.raw(someone, isid(1))
		p.vol.HoldFirst()
		x.command(write16(0, 1), older, 512)
		p.vol.AwaitHeld(1)
		closed := make(chan int, 1)
		go func() {
			n, err := p.srv.CloseSessions(t.Context(), p.iqn, someone)
			if err != nil {
				t.Error(err)
			}
			closed <- n
		}()
		if early = ready(closed); !early {
			p.vol.Release()
		}
		if n := <-closed; n != 1 {
			t.Errorf("%d sessions closed, want 1", n)
		}
		// The volume is published to another node now, which writes.
		next, err := initiator.Dial(t.Context(), initiator.Options{Portals: []string{"pipe"}, Target: p.iqn, Initiator: "iqn.2026-01.test:next",
			ISID: isid(2), DialContext: p.net.dial})
		if err != nil {
			t.Error(err)
			return
		}
		defer next.Close()
		if err := next.WriteAt(t.Context(), newer, 0); err != nil {
			t.Error(err)
		}
		if early {
			p.vol.Release()
			synctest.Wait()
		}
		content := make([]byte, 512)
		if err := next.ReadAt(t.Context(), content, 0); err != nil {
			t.Error(err)
		}
		overwritten = bytes.Equal(content, older)
		x.c.Close()
	})
	return early, overwritten
}

func TestUnpublishReturnsWhenTheWritesHaveEnded(t *testing.T) {
	if early, overwritten := unpublish(t, target.Options{}); early || overwritten {
		t.Errorf("returned early %v, the next user's write was overwritten %v", early, overwritten)
	}
}

func TestPlantedUnpublishWithoutDrainIsCaught(t *testing.T) {
	if early, overwritten := unpublish(t, target.PlantEarlyClose(target.Options{})); !early || !overwritten {
		t.Error("an unpublish that does not wait for writes went unnoticed")
	}
}
