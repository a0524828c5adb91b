package metadb

import (
	"context"
	"errors"
	"sync"

	mvccpb "go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/iomesh/iomesh/storaged/block"
)

// OwnersUpdate is one step of WatchOwners.
type OwnersUpdate struct {
	Reset    bool             // Owners is the complete list: whatever is not in it is gone
	Owners   []Owner          // new or changed
	Deleted  []block.VolumeID // volumes that have no owner record any more
	Revision int64            // the state after this update is that of Revision, or newer for the named ones
}

// WatchOwners delivers all owners (an update with Reset, always the first) and then every change, in order and without
// gaps, until ctx ends; then the channel is closed. After a long separation a further Reset may come. The receiver must keep receiving.
// Records that cannot be read are logged and left out.
func (d *DB) WatchOwners(ctx context.Context) <-chan OwnersUpdate {
	ch := make(chan OwnersUpdate)
	go func() {
		defer close(ch)
		d.follow(ctx, prefixOwner, func(b batch) bool {
			u := OwnersUpdate{Reset: b.reset, Revision: b.revision}
			for _, kv := range b.put {
				o, err := decodeOwner(string(kv.Key), kv.Value, kv.ModRevision)
				if err != nil {
					d.log.Error("owner record cannot be read", "key", string(kv.Key), "error", err)
					continue
				}
				u.Owners = append(u.Owners, o)
			}
			for _, key := range b.deleted {
				if id, err := parseVolumeKey(prefixOwner, key); err == nil {
					u.Deleted = append(u.Deleted, id)
				}
			}
			return send(ctx, ch, u)
		})
	}()
	return ch
}

// ChunksUpdate is one step of WatchChunks.
type ChunksUpdate struct {
	Reset   bool
	Chunks  []Chunk
	Deleted []block.ChunkID
}

// WatchChunks delivers all chunks and then every change, as WatchOwners: how a chunk learns the addresses of its peers.
func (d *DB) WatchChunks(ctx context.Context) <-chan ChunksUpdate {
	ch := make(chan ChunksUpdate)
	go func() {
		defer close(ch)
		d.follow(ctx, prefixChunk, func(b batch) bool {
			u := ChunksUpdate{Reset: b.reset}
			for _, kv := range b.put {
				c, err := decodeChunk(string(kv.Key), kv.Value, kv.ModRevision)
				if err != nil {
					d.log.Error("chunk record cannot be read", "key", string(kv.Key), "error", err)
					continue
				}
				u.Chunks = append(u.Chunks, c)
			}
			for _, key := range b.deleted {
				if ev, err := parseKey(key); err == nil {
					u.Deleted = append(u.Deleted, ev.(Chunk).ID)
				}
			}
			return send(ctx, ch, u)
		})
	}()
	return ch
}

func send[T any](ctx context.Context, ch chan<- T, v T) bool {
	select {
	case ch <- v:
		return true
	case <-ctx.Done():
		return false
	}
}

// VolumeUpdate is the volume record, owner and grants at one revision.
type VolumeUpdate struct {
	Deleted  bool // the volume record is gone; the other fields are empty
	Volume   Volume
	Owner    Owner
	Grants   []Grant
	Revision int64
}

// WatchVolume delivers the volume record and the grants of a volume now and after changes of either, until ctx ends; then
// the channel is closed. Each update is complete and newer than the one before; changes in quick succession may be seen as
// one. Extents are not watched: only their owner changes them, and the leader calls Resize for new ones.
func (d *DB) WatchVolume(ctx context.Context, id block.VolumeID) <-chan VolumeUpdate {
	ch := make(chan VolumeUpdate)
	dirty, leave := d.hub.join(d, id)
	go func() {
		defer close(ch)
		defer leave()
		for {
			u, err := d.readVolume(ctx, id)
			if err != nil {
				if ctx.Err() != nil {
					return
				}
				d.log.Error("volume cannot be read", "volume", id, "error", err)
			} else if !send(ctx, ch, u) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-dirty:
			}
		}
	}()
	return ch
}

func (d *DB) readVolume(ctx context.Context, id block.VolumeID) (VolumeUpdate, error) {
	resp, err := d.read(ctx, clientv3.OpGet(keyVolume(id)), clientv3.OpGet(keyOwner(id)),
		clientv3.OpGet(prefixGrantsOf(id), clientv3.WithPrefix()))
	if err != nil {
		return VolumeUpdate{}, err
	}
	kvs := func(i int) []*mvccpb.KeyValue { return resp.Responses[i].GetResponseRange().Kvs }
	u := VolumeUpdate{Revision: resp.Header.Revision, Owner: Owner{Volume: id}}
	vols, err1 := decodeAll(kvs(0), decodeVolume)
	owners, err2 := decodeAll(kvs(1), decodeOwner)
	grants, err3 := decodeAll(kvs(2), decodeGrant)
	if err := errors.Join(err1, err2, err3); err != nil {
		return VolumeUpdate{}, err
	}
	if len(vols) == 0 {
		return VolumeUpdate{Deleted: true, Revision: u.Revision}, nil
	}
	u.Volume, u.Grants = vols[0], open(grants)
	if len(owners) > 0 {
		u.Owner = owners[0]
	}
	return u, nil
}

// volumeHub shares two etcd watches (volumes, grants) among all WatchVolume calls of a DB.
type volumeHub struct {
	mu   sync.Mutex
	subs map[block.VolumeID]map[chan struct{}]struct{}
	stop context.CancelFunc // of the watches; set while there are subscribers
	done *sync.WaitGroup
}

func (h *volumeHub) join(d *DB, id block.VolumeID) (dirty chan struct{}, leave func()) {
	dirty = make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.subs) == 0 {
		h.subs = map[block.VolumeID]map[chan struct{}]struct{}{}
		ctx, stop := context.WithCancel(d.cli.Ctx())
		done := &sync.WaitGroup{}
		done.Go(func() {
			d.follow(ctx, prefixVolume, func(b batch) bool {
				h.mark(b, func(key string) (block.VolumeID, error) { return parseVolumeKey(prefixVolume, key) })
				return true
			})
		})
		done.Go(func() {
			d.follow(ctx, prefixGrant, func(b batch) bool {
				h.mark(b, func(key string) (block.VolumeID, error) { id, _, err := parseGrantKey(key); return id, err })
				return true
			})
		})
		h.stop, h.done = stop, done
	}
	if h.subs[id] == nil {
		h.subs[id] = map[chan struct{}]struct{}{}
	}
	h.subs[id][dirty] = struct{}{}
	return dirty, func() { h.leave(id, dirty) }
}

func (h *volumeHub) leave(id block.VolumeID, dirty chan struct{}) {
	h.mu.Lock()
	delete(h.subs[id], dirty)
	if len(h.subs[id]) == 0 {
		delete(h.subs, id)
	}
	var done *sync.WaitGroup
	if len(h.subs) == 0 {
		h.stop()
		done = h.done
	}
	h.mu.Unlock()
	if done != nil {
		done.Wait()
	}
}

// mark tells the subscribers of the volumes in b; all subscribers after a reset, which may hide any change.
func (h *volumeHub) mark(b batch, volumeOf func(key string) (block.VolumeID, error)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	tell := func(id block.VolumeID) {
		for ch := range h.subs[id] {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
	if b.reset {
		for id := range h.subs {
			tell(id)
		}
		return
	}
	for _, kv := range b.put {
		if id, err := volumeOf(string(kv.Key)); err == nil {
			tell(id)
		}
	}
	for _, key := range b.deleted {
		if id, err := volumeOf(key); err == nil {
			tell(id)
		}
	}
}
