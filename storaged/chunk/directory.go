package chunk

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/metadb"
	"github.com/iomesh/iomesh/storaged/pagebuf"
	"github.com/iomesh/iomesh/storaged/peer"
	"github.com/iomesh/iomesh/storaged/replication"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// Lookup implements target.Directory: the volume if it is served here, else a redirect to its owner; while there is neither it
// waits.
func (t *volumes) Lookup(ctx context.Context, l target.Login) (target.Placement, error) {
	id, err := block.ParseIQN(l.Target)
	if err != nil {
		return target.Placement{}, fmt.Errorf("%w: %w", target.ErrNoTarget, err)
	}
	trusted := false
	var doubt <-chan time.Time // ends the wait for an owner that can be reached
	for first := true; ; first = false {
		t.mu.RLock()
		changed := t.changed
		v, owner, known, moving := t.m[id], t.owners[id], false, t.moving[id]
		_, known = t.owners[id]
		t.mu.RUnlock()
		if !known && first {
			// The watch may lag behind a volume that was created a moment ago.
			if _, err := t.s.db.GetOwner(ctx, id); errors.Is(err, metadb.ErrNotFound) {
				return target.Placement{}, fmt.Errorf("%w: volume %s: %w", target.ErrNoTarget, id, err)
			} else if err != nil {
				// Metadata that cannot be read say nothing about the volume: never a final answer.
				return target.Placement{}, fmt.Errorf("look for volume %s: %w", id, err)
			}
		}
		switch {
		case moving:
		case v != nil && v.isReady():
			g, ok := v.grant(l.Initiator)
			if !ok {
				// Likewise for a grant, however long the login has waited.
				if err := v.reloadGrants(ctx); err != nil {
					return target.Placement{}, fmt.Errorf("look for a grant of %s at volume %s: %w", l.Initiator, id, err)
				}
				g, ok = v.grant(l.Initiator)
			}
			if !ok {
				return target.Placement{}, fmt.Errorf("%w: initiator %s at volume %s", target.ErrNotGranted, l.Initiator, id)
			}
			v.initiators(l.Initiator)
			return target.Placement{Volume: v, Grant: g}, nil
		case known && owner.Chunk != 0 && owner.Chunk != t.s.id:
			addr := t.s.portalOf(owner.Chunk)
			if addr != "" && (t.s.reaches(owner.Chunk) || trusted) {
				return target.Placement{Redirect: addr}, nil
			}
			// Another owner is on its way, or the initiator reaches one that this chunk does not.
			if addr != "" && doubt == nil {
				timer := time.NewTimer(timeouts.OwnerDoubt)
				defer timer.Stop()
				doubt = timer.C
			}
		}
		select {
		case <-ctx.Done():
			return target.Placement{}, fmt.Errorf("volume %s has no serving owner yet: %w", id, context.Cause(ctx))
		case <-changed:
		case <-doubt:
			trusted = true
		}
	}
}

// reaches reports whether there is a data connection to a chunk.
func (s *Server) reaches(id block.ChunkID) bool { return s.routes.get(id).out[peer.Data].Load() != nil }

// Targets implements target.Directory. Only volumes owned here are listed with certainty; for the others the grants are read.
func (t *volumes) Targets(ctx context.Context, l target.Login) ([]string, error) {
	t.mu.RLock()
	ids := make([]block.VolumeID, 0, len(t.owners))
	for id := range t.owners {
		ids = append(ids, id)
	}
	t.mu.RUnlock()
	var out []string
	for _, id := range ids {
		var grants []metadb.Grant
		if v := t.get(id); v != nil {
			v.mu.Lock()
			grants = v.grants
			v.mu.Unlock()
		} else {
			var err error
			if grants, err = t.s.db.ListGrants(ctx, id); err != nil {
				return nil, fmt.Errorf("list targets for %s: %w", l.Initiator, err)
			}
		}
		if slices.ContainsFunc(grants, func(g metadb.Grant) bool { return matches(g, l.Initiator) }) {
			out = append(out, id.IQN())
		}
	}
	slices.Sort(out)
	return out, nil
}

func matches(g metadb.Grant, initiator string) bool {
	return !g.Closing && (g.Initiator == initiator || g.Initiator == metadb.AnyInitiator)
}

func (v *volume) isReady() bool {
	select {
	case <-v.ready:
	default:
		return false
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return !v.lost
}

// grant is the right of an initiator; one made for its name goes before one for all.
func (v *volume) grant(initiator string) (target.Grant, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var found *metadb.Grant
	for i := range v.grants {
		g := &v.grants[i]
		if matches(*g, initiator) && (found == nil || g.Initiator == initiator) {
			found = g
		}
	}
	if found == nil {
		return target.Grant{}, false
	}
	g := target.Grant{Generation: found.Generation, ReadOnly: found.Mode == metadb.AccessReadOnly}
	if found.CHAPUser != "" {
		g.CHAP = &target.CHAP{User: found.CHAPUser, Secret: found.CHAPSecret, MutualUser: found.MutualUser, MutualSecret: found.MutualSecret}
	}
	return g, true
}

func (v *volume) reloadGrants(ctx context.Context) error {
	g, err := v.s.db.ListGrants(ctx, v.id)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.grants = g
	v.mu.Unlock()
	return nil
}

// initiators tells the machine how many initiators may be logged in, among them those about to be; with more than one a read
// is confirmed by another member (I4).
func (v *volume) initiators(arriving ...string) {
	names := map[string]bool{}
	for _, n := range arriving {
		names[n] = true
	}
	for _, s := range v.s.target.Sessions(v.id.IQN()) {
		names[s.Initiator] = true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.o.Initiators(len(names))
	if len(arriving) > 0 {
		v.o.Arrived()
	}
}

// closeSessions ends the sessions of an initiator whose grant is gone (I16).
func (v *volume) closeSessions(ctx context.Context, initiator string) (int, error) {
	if err := v.reloadGrants(ctx); err != nil {
		return 0, err
	}
	if initiator == metadb.AnyInitiator {
		initiator = ""
	}
	n, err := v.s.target.CloseSessions(ctx, v.id.IQN(), initiator)
	v.initiators()
	return n, err
}

// portalOf is the iSCSI address of a chunk, "" if it is not known.
func (s *Server) portalOf(id block.ChunkID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.chunks[id].ISCSIAddress
}

// barrier takes a snapshot: drains the writes in flight, commits the record, and returns when new writes are let through (I11).
func (v *volume) barrier(ctx context.Context, id block.SnapshotID) error {
	done := make(chan replication.Result, 1)
	p := &part{done: func(_ *part, e *replication.Effect, _ *pagebuf.Buf) { done <- e.Result }}
	out := getEffects()
	v.mu.Lock()
	if v.lost {
		v.mu.Unlock()
		out.put()
		return fmt.Errorf("volume %s has moved to another owner", v.id)
	}
	tag := v.add(p)
	v.snaps[tag] = id
	out.list = v.o.Barrier(v.s.now(), tag, out.list)
	v.settle(out)
	v.mu.Unlock()
	v.perform(out)
	select {
	case r := <-done:
		v.mu.Lock()
		delete(v.snaps, tag)
		v.mu.Unlock()
		if r != replication.ResultOK {
			return fmt.Errorf("snapshot %s of volume %s: the barrier ended with result %d", id, v.id, r)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("snapshot %s of volume %s: %w", id, v.id, context.Cause(ctx))
	}
}

// hostPort joins an address to advertise with the port a listener got.
func hostPort(host string, ln net.Listener) string {
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return ln.Addr().String()
	}
	return net.JoinHostPort(host, port)
}
