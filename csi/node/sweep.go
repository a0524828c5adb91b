package node

import (
	"context"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"google.golang.org/grpc/codes"

	"github.com/iomesh/iomesh/csi/code"
)

// Sweep removes what earlier calls left of volumes that nobody will ask for again: no grant for this node, nothing mounted. Kubernetes
// forgets a volume that it detached while the node was cut off. Called once, before the plugin serves.
func (s *Service) Sweep(ctx context.Context) {
	ids, err := s.records.volumes()
	if err != nil {
		s.log.Warn("leftovers were not looked for", "error", err)
		return
	}
	for _, id := range ids {
		if err := s.sweep(ctx, id); err != nil {
			s.log.Warn("leftovers of a volume were not removed", "volume", id, "error", err)
		}
	}
}

func (s *Service) sweep(ctx context.Context, id string) error {
	rec, known, err := s.records.load(id)
	if err != nil || !known {
		return err
	}
	for _, path := range append(rec.Published, rec.Staging) {
		if _, mounted, err := s.fs.At(path); err != nil || mounted {
			return err // in use, or at least kubelet will find it
		}
	}
	_, err = s.opts.Grants.GetGrant(ctx, &storagedv1.GetGrantRequest{VolumeId: id, Initiator: s.initiator, Node: s.opts.Node})
	if code.Of(err) != codes.NotFound {
		return nil // granted, or not known now: staging may go on
	}
	s.log.Info("removing what is left of a volume that is not published here any more", "volume", id)
	return s.detach(ctx, id, rec, true)
}
