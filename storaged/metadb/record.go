package metadb

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/iomesh/iomesh/storaged/block"
)

// Name is the record that makes volume names unique.
type Name struct {
	Name     string
	Volume   block.VolumeID
	Revision int64
}

// Record is one of Cluster, Leader, Chunk, Node, Disk, Volume, Name, Owner, Extent, Grant, Snapshot, Reservation, Tombstone.
type Record any

// Update is one step of WatchAll.
type Update struct {
	Reset    bool     // Put is the complete content
	Put      []Record // new or changed
	Deleted  []Record // only the identity is set
	Revision int64    // the content after this update is that of Revision
}

// WatchAll delivers all records and then every change, as WatchOwners: the meta leader's mirror. Updates hold whole transactions.
func (d *DB) WatchAll(ctx context.Context) <-chan Update {
	ch := make(chan Update)
	go func() {
		defer close(ch)
		d.follow(ctx, Prefix, func(b batch) bool {
			u := Update{Reset: b.reset, Revision: b.revision}
			for _, kv := range b.put {
				r, err := decodeRecord(string(kv.Key), kv.Value, kv.ModRevision)
				if err != nil {
					d.log.Error("metadata record cannot be read", "key", strconv.Quote(string(kv.Key)), "error", err)
					continue
				}
				u.Put = append(u.Put, r)
			}
			for _, key := range b.deleted {
				r, err := parseKey(key)
				if err != nil {
					d.log.Error("unknown metadata key was deleted", "key", strconv.Quote(key))
					continue
				}
				u.Deleted = append(u.Deleted, r)
			}
			return send(ctx, ch, u)
		})
	}()
	return ch
}

func as[T any](v T, err error) (Record, error) { return v, err }

// decodeRecord decodes any record by its key.
func decodeRecord(key string, value []byte, rev int64) (Record, error) {
	switch kind, rest := splitKey(key); kind {
	case keyCluster:
		return as(decodeCluster(key, value, rev))
	case keyLeader:
		return as(decodeLeader(key, value, rev))
	case prefixChunk:
		return as(decodeChunk(key, value, rev))
	case prefixNode:
		return as(decodeNode(key, value, rev))
	case prefixDisk:
		return as(decodeDisk(key, value, rev))
	case prefixVolume:
		return as(decodeVolume(key, value, rev))
	case prefixName:
		id, err := decodeName(key, value)
		return Name{Name: rest, Volume: id, Revision: rev}, err
	case prefixOwner:
		return as(decodeOwner(key, value, rev))
	case prefixExtent:
		return as(decodeExtent(key, value, rev))
	case prefixGrant:
		return as(decodeGrant(key, value, rev))
	case prefixSnapshot:
		return as(decodeSnapshot(key, value, rev))
	case prefixReservation:
		return as(decodeReservation(key, value, rev))
	case prefixTombstone:
		return as(decodeTombstone(key, value, rev))
	}
	return nil, fmt.Errorf("unknown key %q", key)
}

// parseKey returns a record with only the identity that the key names.
func parseKey(key string) (Record, error) {
	switch kind, rest := splitKey(key); kind {
	case keyCluster:
		return Cluster{}, nil
	case keyLeader:
		return Leader{}, nil
	case prefixChunk:
		n, err := strconv.ParseUint(rest, 10, 32)
		return Chunk{ID: block.ChunkID(n)}, err
	case prefixNode:
		return Node{Name: rest}, nil
	case prefixDisk:
		id, err := block.ParseDiskID(rest)
		return Disk{ID: id}, err
	case prefixVolume:
		id, err := block.ParseVolumeID(rest)
		return Volume{ID: id}, err
	case prefixName:
		return Name{Name: rest}, nil
	case prefixOwner:
		id, err := block.ParseVolumeID(rest)
		return Owner{Volume: id}, err
	case prefixExtent:
		id, err := parseExtentKey(key)
		return Extent{ID: id}, err
	case prefixGrant:
		id, initiator, err := parseGrantKey(key)
		return Grant{Volume: id, Initiator: initiator}, err
	case prefixSnapshot:
		id, err := block.ParseSnapshotID(rest)
		return Snapshot{ID: id}, err
	case prefixReservation:
		id, err := block.ParseVolumeID(rest)
		return Reservation{Volume: id}, err
	case prefixTombstone:
		id, err := block.ParseVolumeID(rest)
		return Tombstone{Volume: id}, err
	}
	return nil, fmt.Errorf("unknown key %q", key)
}

// splitKey returns the prefix that names the kind of record (or the whole key of a single one), and the rest.
func splitKey(key string) (kind, rest string) {
	after, ok := strings.CutPrefix(key, Prefix)
	if !ok {
		return "", key
	}
	word, rest, found := strings.Cut(after, "/")
	if !found {
		return key, ""
	}
	return Prefix + word + "/", rest
}
