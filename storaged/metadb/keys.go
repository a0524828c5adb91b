package metadb

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"github.com/iomesh/iomesh/storaged/block"
)

// Prefix begins every key. Another format of the records would have another prefix.
const Prefix = "/iomesh/v1/"

const (
	keyCluster        = Prefix + "cluster"
	keyLeader         = Prefix + "leader"
	prefixChunk       = Prefix + "chunk/"
	prefixNode        = Prefix + "node/"
	prefixDisk        = Prefix + "disk/"
	prefixVolume      = Prefix + "volume/"
	prefixName        = Prefix + "name/"
	prefixOwner       = Prefix + "owner/"
	prefixExtent      = Prefix + "extent/"
	prefixGrant       = Prefix + "grant/"
	prefixSnapshot    = Prefix + "snapshot/"
	prefixReservation = Prefix + "reservation/"
	prefixTombstone   = Prefix + "tombstone/"
)

func keyChunk(id block.ChunkID) string              { return prefixChunk + strconv.FormatUint(uint64(id), 10) }
func keyNode(name string) string                    { return prefixNode + name }
func keyDisk(id block.DiskID) string                { return prefixDisk + id.String() }
func keyVolume(id block.VolumeID) string            { return prefixVolume + id.String() }
func keyName(name string) string                    { return prefixName + name }
func keyOwner(id block.VolumeID) string             { return prefixOwner + id.String() }
func keySnapshot(id block.SnapshotID) string        { return prefixSnapshot + id.String() }
func keyReservation(id block.VolumeID) string       { return prefixReservation + id.String() }
func keyTombstone(id block.VolumeID) string         { return prefixTombstone + id.String() }
func prefixGrantsOf(id block.VolumeID) string       { return prefixGrant + id.String() + "/" }
func prefixExtentsOf(id block.VolumeID) string      { return prefixExtent + string(id[:]) }
func keyGrant(id block.VolumeID, ini string) string { return prefixGrantsOf(id) + ini }

func keyExtent(id block.ExtentID) string {
	b := make([]byte, 0, len(prefixExtent)+20)
	b = append(b, prefixExtent...)
	b = append(b, id.Volume[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(id.Index))
	return string(b)
}

func parseExtentKey(key string) (block.ExtentID, error) {
	rest, ok := strings.CutPrefix(key, prefixExtent)
	if !ok || len(rest) != 20 {
		return block.ExtentID{}, fmt.Errorf("key %q is not of an extent", key)
	}
	var id block.ExtentID
	copy(id.Volume[:], rest)
	id.Index = block.ExtentIndex(binary.BigEndian.Uint32([]byte(rest[16:])))
	return id, nil
}

func parseVolumeKey(prefix, key string) (block.VolumeID, error) {
	rest, ok := strings.CutPrefix(key, prefix)
	if !ok {
		return block.VolumeID{}, fmt.Errorf("key %q does not begin with %q", key, prefix)
	}
	return block.ParseVolumeID(rest)
}

func parseGrantKey(key string) (block.VolumeID, string, error) {
	rest, ok := strings.CutPrefix(key, prefixGrant)
	if !ok || len(rest) < 38 || rest[36] != '/' {
		return block.VolumeID{}, "", fmt.Errorf("key %q is not of a grant", key)
	}
	id, err := block.ParseVolumeID(rest[:36])
	return id, rest[37:], err
}
