package meta

import (
	"context"
	"crypto/rand"
	"fmt"
	"math/big"
	"regexp"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

const (
	// secretLength is that of generated CHAP secrets: what all initiators take (some want 12 to 16).
	secretLength   = 16
	secretAlphabet = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
	// closeWait is how long an owner may take to close sessions before the volume is given to another owner.
	closeWait = 5 * time.Second
)

// initiatorName follows RFC 7143 §4.2.7: iqn, eui and naa names, lower case.
var initiatorName = regexp.MustCompile(`^(iqn\.[0-9]{4}-[0-9]{2}\.[a-z0-9.-]+(:[^\s/]{1,180})?|eui\.[0-9A-Fa-f]{16}|naa\.([0-9A-Fa-f]{16}|[0-9A-Fa-f]{32}))$`)

// PublishVolume implements the RPC of the same name.
func (vs *volumesService) PublishVolume(ctx context.Context, req *storagedv1.PublishVolumeRequest) (*storagedv1.Grant, error) {
	l := leaderOf(ctx)
	if err := checkPublish(req); err != nil {
		return nil, err
	}
	v, unlock, err := l.lockVolume(ctx, req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	defer unlock()
	mode := metadb.AccessMode(req.GetMode())
	var grants []metadb.Grant
	l.view(func(s *state) { grants = s.grantsOf(v.ID) })
	next := metadb.Grant{Volume: v.ID, Initiator: req.GetInitiator(), Mode: mode, Generation: 1, Node: req.GetNode()}
	for _, g := range grants {
		if g.Initiator == next.Initiator {
			if g.Closing {
				return nil, failf(codes.Aborted, "the grant of volume %s to %s is being withdrawn: try again", v.Name, g.Initiator)
			}
			if g.Mode == mode && g.Node == next.Node {
				return grant(g, true), nil
			}
			if g.Mode != mode {
				return nil, failf(codes.FailedPrecondition, "volume %s is published to %s as %s: unpublish it before publishing it as %s", v.Name, g.Initiator, g.Mode, mode)
			}
			next.Revision, next.Generation = g.Revision, g.Generation+1
			continue
		}
		if g.Mode == metadb.AccessExclusive || mode == metadb.AccessExclusive {
			return nil, failf(codes.FailedPrecondition, "volume %s is published as %s to %s%s: unpublish it there first", v.Name, g.Mode, g.Initiator, onNode(g.Node))
		}
	}
	if !req.GetNoAuth() {
		if next.CHAPUser, next.CHAPSecret = req.GetChapUser(), req.GetChapSecret(); next.CHAPSecret == "" {
			if next.CHAPSecret, err = newSecret(); err != nil {
				return nil, err
			}
		}
		if next.CHAPUser == "" {
			next.CHAPUser = next.Initiator
		}
	}
	if next.Revision, err = l.commit(ctx, metadb.PutGrant(next)); err != nil {
		return nil, fmt.Errorf("publish volume %s to %s: %w", v.Name, next.Initiator, err)
	}
	l.log.Info("volume published", "volume", v.ID, "initiator", next.Initiator, "mode", mode.String(), "node", next.Node)
	return grant(next, true), nil
}

func onNode(node string) string {
	if node == "" {
		return ""
	}
	return " on node " + node
}

func checkPublish(req *storagedv1.PublishVolumeRequest) error {
	if ini := req.GetInitiator(); ini != metadb.AnyInitiator && !initiatorName.MatchString(ini) {
		return failf(codes.InvalidArgument, "initiator: %q is not an iSCSI name (iqn.…, eui.…, naa.…) and not %q", ini, metadb.AnyInitiator)
	}
	switch req.GetMode() {
	case storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE, storagedv1.AccessMode_ACCESS_MODE_SHARED, storagedv1.AccessMode_ACCESS_MODE_READ_ONLY:
	default:
		return failf(codes.InvalidArgument, "mode: %v is not exclusive, shared or read-only", req.GetMode())
	}
	if req.GetInitiator() == metadb.AnyInitiator && req.GetMode() == storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE {
		return failf(codes.InvalidArgument, "mode: a grant to any initiator cannot be exclusive")
	}
	if req.GetInitiator() == metadb.AnyInitiator && !req.GetNoAuth() && req.GetChapUser() == "" {
		return failf(codes.InvalidArgument, "chap_user: a grant to any initiator needs a user name, or no_auth")
	}
	if n := len(req.GetChapSecret()); n != 0 && (n < 12 || n > 255) {
		return failf(codes.InvalidArgument, "chap_secret: must have 12 to 255 bytes, has %d", n)
	}
	if len(req.GetChapUser()) > 255 {
		return failf(codes.InvalidArgument, "chap_user: is longer than 255 bytes")
	}
	if len(req.GetNode()) > 253 {
		return failf(codes.InvalidArgument, "node: is longer than 253 bytes")
	}
	return nil
}

func newSecret() (string, error) {
	b := make([]byte, secretLength)
	for i := range b {
		n, err := rand.Int(rand.Reader, big.NewInt(int64(len(secretAlphabet))))
		if err != nil {
			return "", fmt.Errorf("generate CHAP secret: %w", err)
		}
		b[i] = secretAlphabet[n.Int64()]
	}
	return string(b), nil
}

// GetGrant implements the RPC of the same name: by initiator, or by node.
func (vs *volumesService) GetGrant(ctx context.Context, req *storagedv1.GetGrantRequest) (*storagedv1.Grant, error) {
	l := leaderOf(ctx)
	v, err := l.find(req.GetVolumeId())
	if err != nil {
		return nil, err
	}
	if req.GetInitiator() == "" && req.GetNode() == "" {
		return nil, failf(codes.InvalidArgument, "initiator or node: one must be given")
	}
	var out *storagedv1.Grant
	l.view(func(s *state) {
		for _, g := range s.grantsOf(v.ID) {
			if !g.Closing && matches(g, req.GetInitiator(), req.GetNode()) {
				out = grant(g, true)
				return
			}
		}
	})
	if out == nil {
		return nil, failf(codes.NotFound, "volume %s is not published to %s", v.Name, orText(req.GetInitiator(), "node "+req.GetNode()))
	}
	return out, nil
}

func matches(g metadb.Grant, initiator, node string) bool {
	if initiator != "" {
		return g.Initiator == initiator && (node == "" || g.Node == node)
	}
	return g.Node == node
}

// UnpublishVolume implements the RPC of the same name (I16):
//
//	mark the grant closing ─▶ owner closes the sessions and drains ─▶ delete the grant
//	                             │ owner does not answer
//	                             ▼
//	              next epoch at another chunk, which reports it ─▶ delete the grant
//
// The mark makes it resumable: a repeated call finds the grant and goes on.
func (vs *volumesService) UnpublishVolume(ctx context.Context, req *storagedv1.UnpublishVolumeRequest) (*storagedv1.UnpublishVolumeResponse, error) {
	l := leaderOf(ctx)
	if req.GetInitiator() == "" && req.GetNode() == "" {
		return nil, failf(codes.InvalidArgument, "initiator or node: one must be given")
	}
	v, unlock, err := l.lockVolume(ctx, req.GetVolumeId())
	if status.Code(err) == codes.NotFound {
		return &storagedv1.UnpublishVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer unlock()
	var grants []metadb.Grant
	l.view(func(s *state) { grants = s.grantsOf(v.ID) })
	for _, g := range grants {
		if !matches(g, req.GetInitiator(), req.GetNode()) {
			continue
		}
		if !g.Closing {
			g.Closing = true
			if g.Revision, err = l.commit(ctx, metadb.PutGrant(g)); err != nil {
				return nil, fmt.Errorf("unpublish volume %s from %s: %w", v.Name, g.Initiator, err)
			}
		}
		if err := l.closeSessions(ctx, v, g.Initiator); err != nil {
			return nil, err
		}
		if _, err := l.commit(ctx, metadb.DeleteGrant(g)); err != nil {
			return nil, fmt.Errorf("unpublish volume %s from %s: %w", v.Name, g.Initiator, err)
		}
		l.log.Info("volume unpublished", "volume", v.ID, "initiator", g.Initiator, "node", g.Node)
	}
	return &storagedv1.UnpublishVolumeResponse{}, nil
}

// closeSessions returns when no session of an initiator can write to a volume any more. The grant is gone for owners already.
func (l *leader) closeSessions(ctx context.Context, v metadb.Volume, initiator string) error {
	o, err := l.tellOwner(ctx, v.ID, closeWait, func(ctx context.Context, cc storagedv1.ChunkControlClient) error {
		_, err := cc.CloseSessions(ctx, &storagedv1.CloseSessionsRequest{VolumeId: v.ID.String(), Initiator: initiator})
		return err
	})
	if err == nil {
		return nil
	}
	l.log.Warn("the owner does not close the sessions; giving the volume to another", "volume", v.ID, "owner", o.Chunk, "initiator", initiator, "error", err)
	to := block.ChunkID(0)
	l.view(func(s *state) { to = chooseOwner(s.extents[v.ID], s.grantsOf(v.ID), l.chunkFacts(s), o.Chunk) })
	if to == 0 || to == o.Chunk {
		return failf(codes.Unavailable, "volume %s: its owner, chunk %d, did not close the sessions of %s, and no other chunk can take the volume: %v", v.Name, o.Chunk, initiator, status.Convert(err).Message())
	}
	next := metadb.Owner{Volume: v.ID, Chunk: to, Epoch: o.Epoch + 1, Revision: o.Revision}
	res, err := l.db.SetOwners(ctx, l.guard, []metadb.Owner{next})
	if err != nil {
		return l.check(err)
	}
	if res[0].Outcome != metadb.Committed {
		return failf(codes.Aborted, "volume %s got another owner meanwhile: try again", v.Name)
	}
	// The record alone stops nobody: the former owner serves until the members have promised the new epoch (I3, I4).
	return l.awaitEpoch(ctx, v, res[0].Current)
}

// awaitEpoch returns when the owner reports that it serves the volume in its epoch or a later one.
func (l *leader) awaitEpoch(ctx context.Context, v metadb.Volume, o metadb.Owner) error {
	for {
		var cur metadb.Owner
		l.view(func(s *state) { cur = s.owners[v.ID] })
		if cur.Epoch >= o.Epoch {
			if f, ok := l.reg.volume(cur.Chunk, v.ID); ok && f.report.GetEpoch() >= uint64(o.Epoch) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return failf(codes.DeadlineExceeded, "volume %s: chunk %d has not taken epoch %d yet: try again", v.Name, o.Chunk, o.Epoch)
		case <-l.ctx.Done():
			return notLeader("")
		case <-time.After(timeouts.Heartbeat / 2):
		}
	}
}

// tellOwner calls the owner of a volume, and its successor if the owner changes or does not answer, for up to limit. It returns
// the last owner asked.
func (l *leader) tellOwner(ctx context.Context, id block.VolumeID, limit time.Duration, call func(context.Context, storagedv1.ChunkControlClient) error) (metadb.Owner, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	for {
		var o metadb.Owner
		l.view(func(s *state) { o = s.owners[id] })
		cc, err := l.control(o.Chunk)
		if err == nil {
			err = call(ctx, cc)
		}
		if err == nil {
			return o, nil
		}
		// The last error before the time is over says more than that it is over.
		if last == nil || ctx.Err() == nil {
			last = err
		}
		switch status.Code(err) {
		case codes.InvalidArgument, codes.OutOfRange, codes.Unimplemented, codes.PermissionDenied, codes.ResourceExhausted:
			return o, err
		}
		select {
		case <-ctx.Done():
			return o, fmt.Errorf("chunk %d: %w", o.Chunk, last)
		case <-l.ctx.Done():
			return o, notLeader("")
		case <-time.After(timeouts.Heartbeat / 2):
		}
	}
}
