package rig

import (
	"io"
	"path/filepath"
	"testing"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/attach/session"
	"github.com/iomesh/iomesh/csi/meta"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/dev"
)

// diskBytes is the size of each disk of NewStoraged: sparse files.
const diskBytes = 4 << 30

// NewStoraged starts everything over the real block service: a development cluster of three chunks in this process, certificates
// by role, iSCSI over loopback.
func NewStoraged(t testing.TB) *Rig {
	t.Helper()
	r := bare(t)
	dir := filepath.Join(r.Dir, "storaged")
	control, stop, err := dev.Start(t.Context(), dev.Options{Dir: dir, Chunks: 3, Disks: 1, DiskBytes: diskBytes, Log: r.Log, Out: io.Discard})
	r.must(err)
	t.Cleanup(stop)
	role := func(role mtls.Role) *meta.Client {
		return r.dial(control.Meta[0], meta.NewCredentials(filepath.Join(dir, "tls", string(role))))
	}
	r.controller, r.client, r.portal = role(mtls.RoleController), role(mtls.RoleNode), control.Portal
	r.attacher(session.Dialer{Log: r.Log})
	return r
}

// Grant returns the grant of a node, with its secret, as the node fetches it.
func (r *Rig) Grant(volume, initiator string) *storagedv1.Grant {
	r.T.Helper()
	g, err := r.client.GetGrant(r.T.Context(), &storagedv1.GetGrantRequest{VolumeId: volume, Initiator: initiator})
	r.must(err)
	return g
}

// Portal accepts logins for every volume.
func (r *Rig) Portal() string { return r.portal }

// Objects is how many volumes and snapshots the block service has.
func (r *Rig) Objects() (volumes, snapshots int) {
	r.T.Helper()
	c := r.Controller()
	vols, err := c.ListVolumes(r.T.Context(), nil)
	r.must(err)
	snaps, err := c.ListSnapshots(r.T.Context(), nil)
	r.must(err)
	return len(vols.GetEntries()), len(snaps.GetEntries())
}
