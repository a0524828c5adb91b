package meta

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strings"

	"github.com/iomesh/iomesh/storaged/block"
)

// diskRoom is what placement knows of one disk. Only disks that may take new replicas are given to it.
type diskRoom struct {
	ID        block.DiskID
	Chunk     block.ChunkID
	Node      string
	Zone      string
	Size      uint64 // bytes
	Used      uint64 // bytes allocated, as reported
	ThinBytes uint64 // provisioned by sets
	Thick     uint64 // provisioned and promised by sets
}

// limits are the rules of the pool.
type limits struct {
	OverProvisioning float64
	Reserve          float64
}

// room is how many bytes of replicas may still be placed on the disk.
//
// Thick replicas are promised space: what is used or promised, whichever is more (the used part of thick replicas is in
// both), must stay below the disk without its reserve. Thin ones count against the over-provisioning limit, and
// find no room on a disk that is filled into its reserve already.
func (d *diskRoom) room(l limits, thick bool) uint64 {
	usable := float64(d.Size) * (1 - l.Reserve)
	provisioned := float64(d.ThinBytes) + float64(d.Thick)
	left := usable*l.OverProvisioning - provisioned
	if free := usable - max(float64(d.Used), float64(d.Thick)); free <= 0 {
		left = 0
	} else if thick {
		left = min(left, free)
	}
	if left <= 0 {
		return 0
	}
	return uint64(left)
}

// want says what is to be placed.
type want struct {
	Seed       block.VolumeID // equal wants with equal seeds on equal pools are placed equally
	Replicas   int
	Thick      bool
	PreferNode string
	Nodes      []string // allowed nodes; empty = all
}

// noRoomError says why a placement failed and what is missing.
type noRoomError struct{ msg string }

func (e *noRoomError) Error() string { return e.msg }

// placer places the extents of one volume: replicas on distinct nodes, in distinct zones where there are enough, on the
// same nodes for the whole volume as long as these have room, so that its owner can have a replica of all of it and needs
// promises from few others. Nodes and the disks in them are chosen at random, weighted by their room.
type placer struct {
	lim   limits
	w     want
	nodes []*nodeRoom // in order of preference for this volume
}

type nodeRoom struct {
	name, zone string
	disks      []*diskRoom // owned copies; provisioned grows as replicas are placed
	score      float64
}

// room is how many bytes of replicas may still be placed on all disks of the node.
func (n *nodeRoom) room(l limits, thick bool) uint64 {
	var sum uint64
	for _, d := range n.disks {
		sum += d.room(l, thick)
	}
	return sum
}

func newPlacer(pool []diskRoom, lim limits, w want) (*placer, error) {
	p := &placer{lim: lim, w: w}
	byName := map[string]*nodeRoom{}
	for _, d := range pool {
		if len(w.Nodes) > 0 && !slices.Contains(w.Nodes, d.Node) {
			continue
		}
		n := byName[d.Node]
		if n == nil {
			n = &nodeRoom{name: d.Node, zone: d.Zone}
			byName[d.Node] = n
			p.nodes = append(p.nodes, n)
		}
		n.disks = append(n.disks, &d)
	}
	if len(p.nodes) < w.Replicas {
		return nil, &noRoomError{p.tooFew()}
	}
	for _, n := range p.nodes {
		slices.SortFunc(n.disks, func(a, b *diskRoom) int { return slices.Compare(a.ID[:], b.ID[:]) })
		room := n.room(lim, w.Thick)
		n.score = draw(w.Seed, n.name, float64(room))
		if n.name == w.PreferNode && room > 0 {
			n.score = math.Inf(1)
		}
	}
	slices.SortFunc(p.nodes, func(a, b *nodeRoom) int {
		return cmp.Or(cmp.Compare(b.score, a.score), strings.Compare(a.name, b.name))
	})
	return p, nil
}

// fits refuses at once what cannot have room however it is placed. What it says does not depend on the volume's seed, so that a
// request that is tried again and again gets the same answer.
func (p *placer) fits(sizeBytes uint64) error {
	var room uint64
	parts := make([]string, len(p.nodes))
	for i, n := range p.nodes {
		has := n.room(p.lim, p.w.Thick)
		room += min(has, sizeBytes) // one replica of an extent per node
		parts[i] = n.name + " " + bytesText(has)
	}
	if room/uint64(p.w.Replicas) >= sizeBytes {
		return nil
	}
	slices.Sort(parts)
	return &noRoomError{fmt.Sprintf("%s of size with %s needs more room than the pool has: %s left to give (limit: %gx over-provisioning, %g %% reserve)",
		bytesText(sizeBytes), count(p.w.Replicas, "replica"), strings.Join(parts, ", "), p.lim.OverProvisioning, p.lim.Reserve*100)}
}

func (p *placer) tooFew() string {
	names := make([]string, len(p.nodes))
	for i, n := range p.nodes {
		names[i] = n.name
	}
	slices.Sort(names)
	have := "none has one"
	switch len(names) {
	case 0:
	case 1:
		have = "1 has one: " + names[0]
	default:
		have = fmt.Sprintf("%d have one: %s", len(names), strings.Join(names, ", "))
	}
	among := ""
	if len(p.w.Nodes) > 0 {
		among = " among " + strings.Join(p.w.Nodes, ", ")
	}
	return fmt.Sprintf("needs %s%s with an active disk, %s", count(p.w.Replicas, "node"), among, have)
}

// draw is weighted rendezvous hashing: the larger the weight, the more likely a high score.
func draw(seed block.VolumeID, name string, weight float64) float64 {
	if weight <= 0 {
		return -1
	}
	h := fnv.New64a()
	h.Write(seed[:])
	h.Write([]byte(name))
	// FNV's high bits hardly depend on the last bytes; a multiplication and shift spread them.
	x := h.Sum64()
	x ^= x >> 32
	x *= 0x9e3779b97f4a7c15
	x ^= x >> 29
	u := (float64(x>>11) + 0.5) / (1 << 53)
	return -weight / math.Log(u)
}

// target is a chosen place.
type target struct {
	Disk  block.DiskID
	Chunk block.ChunkID
	Node  string
}

// place chooses disks for one extent of sizeBytes and counts them as provisioned. with are places already taken, whose
// nodes are not used again and whose zones are avoided; n more are chosen.
func (p *placer) place(index block.ExtentIndex, sizeBytes uint64, n int, with []target) ([]target, error) {
	usedNode, usedZone := map[string]bool{}, map[string]bool{}
	for _, t := range with {
		usedNode[t.Node] = true
		for _, nr := range p.nodes {
			if nr.name == t.Node && nr.zone != "" {
				usedZone[nr.zone] = true
			}
		}
	}
	var out []target
	for len(out) < n {
		nr, d := p.pick(index, sizeBytes, usedNode, usedZone)
		if d == nil {
			return nil, &noRoomError{p.full(sizeBytes, n+len(with), len(out)+len(with), usedNode)}
		}
		if p.w.Thick {
			d.Thick += sizeBytes
		} else {
			d.ThinBytes += sizeBytes
		}
		usedNode[nr.name] = true
		if nr.zone != "" {
			usedZone[nr.zone] = true
		}
		out = append(out, target{Disk: d.ID, Chunk: d.Chunk, Node: nr.name})
	}
	return out, nil
}

// pick returns the first node by preference with room, in a zone not used yet if any such node has room.
func (p *placer) pick(index block.ExtentIndex, sizeBytes uint64, usedNode, usedZone map[string]bool) (*nodeRoom, *diskRoom) {
	for _, freshZone := range []bool{true, false} {
		for _, nr := range p.nodes {
			if usedNode[nr.name] || freshZone && usedZone[nr.zone] {
				continue
			}
			if d := p.disk(nr, index, sizeBytes); d != nil {
				return nr, d
			}
		}
	}
	return nil, nil
}

// disk chooses a disk of a node for one extent.
func (p *placer) disk(nr *nodeRoom, index block.ExtentIndex, sizeBytes uint64) *diskRoom {
	var best *diskRoom
	var bestScore float64
	for _, d := range nr.disks {
		room := d.room(p.lim, p.w.Thick)
		if room < sizeBytes {
			continue
		}
		var b [20]byte
		copy(b[:], d.ID[:])
		binary.BigEndian.PutUint32(b[16:], uint32(index))
		if score := draw(p.w.Seed, string(b[:]), float64(room)); best == nil || score > bestScore {
			best, bestScore = d, score
		}
	}
	return best
}

func (p *placer) full(sizeBytes uint64, needed, found int, usedNode map[string]bool) string {
	var parts []string
	for _, nr := range p.nodes {
		var room uint64
		for _, d := range nr.disks {
			room = max(room, d.room(p.lim, p.w.Thick))
		}
		note := ""
		if usedNode[nr.name] {
			note = " (has a replica)"
		}
		parts = append(parts, fmt.Sprintf("%s %s%s", nr.name, bytesText(room), note))
	}
	slices.Sort(parts)
	return fmt.Sprintf("needs %s with %s of room on one disk each, found %d; largest room by node: %s (limit: %gx over-provisioning, %g %% reserve)",
		count(needed, "node"), bytesText(sizeBytes), found, strings.Join(parts, ", "), p.lim.OverProvisioning, p.lim.Reserve*100)
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func bytesText(n uint64) string {
	for _, u := range []struct {
		size uint64
		name string
	}{{1 << 40, "TiB"}, {1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
		if n >= u.size {
			return strings.TrimSuffix(fmt.Sprintf("%.1f", float64(n)/float64(u.size)), ".0") + " " + u.name
		}
	}
	return fmt.Sprintf("%d B", n)
}

// capacity is the size of the largest volume of this many replicas that fits the pool: the largest v for which
// Σ min(room of node, v) ≥ replicas × v, because no node may hold two replicas of an extent.
func capacity(pool []diskRoom, lim limits, replicas int, thick bool, nodes []string) uint64 {
	byNode := map[string]uint64{}
	for _, d := range pool {
		if len(nodes) > 0 && !slices.Contains(nodes, d.Node) {
			continue
		}
		byNode[d.Node] += d.room(lim, thick) / block.ExtentSizeBytes * block.ExtentSizeBytes
	}
	fits := func(v uint64) bool {
		var sum float64
		for _, r := range byNode {
			sum += float64(min(r, v))
		}
		return sum >= float64(replicas)*float64(v)
	}
	lo, hi := uint64(0), uint64(1)<<56 // in bytes; fits(lo) always holds
	for hi-lo > 1 {
		if mid := lo + (hi-lo)/2; fits(mid) {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo / block.ExtentSizeBytes * block.ExtentSizeBytes
}
