package node_test

import (
	"errors"
	"strings"
	"testing"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"

	"github.com/iomesh/iomesh/csi/code"
	"github.com/iomesh/iomesh/csi/rig"
)

// TestRotationOfTheUsersCHAPSecrets is the documented procedure, against the real target: both Secrets are changed while a pod writes; the
// pod goes on, and from the next attachment on only the new secret is accepted.
func TestRotationOfTheUsersCHAPSecrets(t *testing.T) {
	r := rig.NewStoraged(t)
	k := newClaim(r, t, "rotated", 32*mib, blockCap(csipb.VolumeCapability_AccessMode_SINGLE_NODE_WRITER), func(in *csipb.CreateVolumeRequest) {
		in.Parameters = map[string]string{"auth": "true"}
	})
	before := map[string]string{"username": "app", "password": "first-secret-1"}
	after := map[string]string{"username": "app", "password": "second-secret"}
	k.secrets = before
	k.up("a")
	w := startWriter(k.target("a"), 32*mib/blockBytes)
	w.await(t, 20)

	k.secrets = after
	if err := k.controllerPublish(); err != nil {
		t.Errorf("publish again with the new secret: %v", err)
	}
	w.await(t, w.acked.Load()+20)
	close(w.stop)
	if err := <-w.done; err != nil {
		t.Errorf("the writer did not survive the rotation: %v", err)
	}
	k.down("a")

	if err := k.controllerPublish(); err != nil {
		t.Fatal(err)
	}
	k.secrets = before
	err := k.stage()
	if code.Of(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "credentials") || strings.Contains(err.Error(), before["password"]) {
		t.Errorf("stage with the old secret: %v, want Unauthenticated, without the secret", err)
	}
	k.secrets = after
	if err := errors.Join(k.stage(), k.nodePublish("b", false)); err != nil {
		t.Fatalf("with the new secret: %v", err)
	}
	if n := prefix(t, k.target("b"), 32*mib/blockBytes); n < w.acked.Load() {
		t.Errorf("%d of %d writes are there", n, w.acked.Load())
	}
	k.down("b")
	k.gone()
}
