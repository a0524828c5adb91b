package keeper

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/iomesh/iomesh/agent/blockdev/fakesys"
	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/internal/diskdir"
)

func TestADyingDiskIsReleasedWithoutBeingErased(t *testing.T) {
	inUse := func(t *testing.T) *node {
		n := newNode(t, blank)
		n.claim()
		n.settle()
		n.chunk(diskdir.StateActive, 0)
		n.settle()
		n.wish = nil
		n.settle()
		n.chunk(diskdir.StateReleased, 0)
		return n
	}
	t.Run("it answers nothing but errors", func(t *testing.T) {
		n := inUse(t)
		n.openErr = &os.PathError{Op: "open", Path: "/dev/sdb", Err: unix.EIO}
		n.settle()
		if n.status.ClaimState != v1alpha1.Unclaimed || n.status.Claim != nil {
			t.Errorf("status %+v", n.status)
		}
	})
	t.Run("it reports another size", func(t *testing.T) {
		n := inUse(t)
		dir := filepath.Join(n.dir, "shrunk")
		s, err := fakesys.Build(dir, machine+"size 1MiB\n", "worker-1")
		if err != nil {
			t.Fatal(err)
		}
		n.scanner = s
		n.settle()
		if n.status.ClaimState != v1alpha1.Unclaimed || n.status.Claim != nil || n.entry() != nil {
			t.Errorf("status %+v, entry %v", n.status, n.entry())
		}
	})
	t.Run("somebody else has it open", func(t *testing.T) {
		n := inUse(t)
		n.openErr = unix.EBUSY
		if err := n.round(); err == nil || n.status.ClaimState != v1alpha1.Released {
			t.Errorf("released while in use: %v, %+v", err, n.status)
		}
	})
}
