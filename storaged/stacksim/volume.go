package stacksim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/sim"
)

// The blocks of a volume that are used, counted from its base:
//
//	[0, 32)    shared: requests of all clients overlap as they come; each block is a register
//	[32, 40)   fine: the same with sectors, so that blocks are merged. The last sector is the counter, which changes by COMPARE AND WRITE only
//	[64, 320)  own: only one request at a time touches a block, so that what it must hold is known; with unmaps and large writes
const (
	sharedBlocks = 32
	fineBlock    = 32
	fineSectors  = 63
	ownFrom      = 64
	ownBlocks    = 256
	usedBlocks   = ownFrom + ownBlocks
)

const sectorsPerBlock = block.Size / sectorBytes

// register numbers.
const (
	regFine    = 1000
	regCounter = 2000
)

// volume is a volume with what its clients know of its content.
type volume struct {
	w    *World
	tag  uint32
	id   string
	iqn  string
	name string
	vc   VolumeConfig
	base uint64 // first used block

	clients []*client
	retired []*client // whose grants were withdrawn

	mu      sync.Mutex
	rng     *rand.Rand
	size    uint64
	values  uint32
	history map[int][]sim.BlockOp
	counter map[uint32]uint32 // value found by a COMPARE AND WRITE → value it wrote
	own     []own
	open    map[string]time.Time // requests under way, for messages
}

// own is what a block of the own region may hold.
type own struct {
	busy bool
	may  []uint32
}

func (w *World) newVolume(i int, vc VolumeConfig) error {
	v := &volume{w: w, tag: uint32(i + 1), name: fmt.Sprintf("v%d", i+1), vc: vc, rng: w.fork(), size: vc.SizeBytes,
		history: map[int][]sim.BlockOp{}, counter: map[uint32]uint32{}, own: make([]own, ownBlocks), open: map[string]time.Time{}}
	if vc.SizeBytes > block.ExtentSizeBytes {
		v.base = block.PerExtent - sharedBlocks/2
	}
	for b := range v.own {
		v.own[b].may = []uint32{0}
	}
	var got *storagedv1.Volume
	if err := w.ask(30*time.Second, func(ctx context.Context, c *grpc.ClientConn) (err error) {
		got, err = storagedv1.NewVolumesClient(c).CreateVolume(ctx, &storagedv1.CreateVolumeRequest{Name: v.name, SizeBytes: vc.SizeBytes, ReplicaFactor: uint32(vc.Replicas)})
		return err
	}); err != nil {
		return fmt.Errorf("create volume %s: %w", v.name, err)
	}
	v.id, v.iqn = got.Id, got.Iqn
	w.volumes = append(w.volumes, v)
	for range vc.Clients {
		c, err := v.newClient()
		if err != nil {
			return err
		}
		v.clients = append(v.clients, c)
	}
	return nil
}

// publish makes a grant.
func (v *volume) publish(initiator string) error {
	mode := storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE
	if v.vc.Clients > 1 {
		mode = storagedv1.AccessMode_ACCESS_MODE_SHARED
	}
	err := v.w.ask(60*time.Second, func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := storagedv1.NewVolumesClient(c).PublishVolume(ctx, &storagedv1.PublishVolumeRequest{VolumeId: v.id, Initiator: initiator, Mode: mode, NoAuth: true})
		return err
	})
	if err != nil {
		return fmt.Errorf("publish volume %s to %s: %w", v.name, initiator, err)
	}
	return nil
}

func (v *volume) unpublish(initiator string) error {
	err := v.w.ask(60*time.Second, func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := storagedv1.NewVolumesClient(c).UnpublishVolume(ctx, &storagedv1.UnpublishVolumeRequest{VolumeId: v.id, Initiator: initiator})
		return err
	})
	if err != nil {
		return fmt.Errorf("unpublish volume %s from %s: %w", v.name, initiator, err)
	}
	return nil
}

// since is the time of the history.
func (w *World) since() int64 { return int64(time.Since(w.began)) }

// newValue is one that was never written before.
func (v *volume) newValue() uint32 {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.values++
	return v.values
}

// begin notes a write before it is sent; settle its end.
func (v *volume) begin(reg int, val uint32, who string) (at int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.history[reg] = append(v.history[reg], sim.BlockOp{Write: true, Value: val, Call: v.w.since(), Return: sim.Never, Who: who})
	return len(v.history[reg]) - 1
}

func (v *volume) ended(reg, at int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.history[reg][at].Return = v.w.since()
}

// endedBy notes that a write took effect before a time or never will.
func (v *volume) endedBy(reg, at int, when int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	o := &v.history[reg][at]
	o.Return, o.Maybe = max(when, o.Call), true
}

func (v *volume) refused(reg, at int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.history[reg][at].Refused = true
}

// saw notes what a read returned.
func (v *volume) saw(reg int, val uint32, call, ret int64, who string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.history[reg] = append(v.history[reg], sim.BlockOp{Value: val, Call: call, Return: ret, Who: who})
}

// take reserves a range of own blocks; false if another request is at work there.
func (v *volume) take(from, n int) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := from; i < from+n; i++ {
		if v.own[i].busy {
			return false
		}
	}
	for i := from; i < from+n; i++ {
		v.own[i].busy = true
	}
	return true
}

// holds gives back a range of own blocks with what each holds now.
func (v *volume) holds(from, n int, val func(i int) uint32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := from; i < from+n; i++ {
		v.own[i] = own{may: []uint32{val(i)}}
	}
}

// mayHold gives back a range of own blocks each of which holds that or what it held before.
func (v *volume) mayHold(from, n int, val func(i int) uint32) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for i := from; i < from+n; i++ {
		v.own[i] = own{may: append(v.own[i].may, val(i))}
	}
}

// found checks what was read of an own block.
func (v *volume) found(i int, val uint32) {
	v.mu.Lock()
	may := slices.Clone(v.own[i].may)
	v.own[i] = own{may: []uint32{val}}
	v.mu.Unlock()
	if !slices.Contains(may, val) {
		v.w.fail("volume %s: own block %d holds value %d, expected one of %v", v.name, i, val, may)
	}
}

// counterSector is where the counter is, in the last of the fine blocks.
func (v *volume) counterSector() uint64 { return v.sector(fineBlock) + fineSectors }

func (v *volume) sector(b int) uint64 { return (v.base + uint64(b)) * sectorsPerBlock }

// judge gives the history of every register to the checker.
func (w *World) judge() {
	for _, v := range w.volumes {
		v.mu.Lock()
		for reg, ops := range v.history {
			if err := sim.CheckRegister(ops); err != nil {
				v.mu.Unlock()
				w.fail("volume %s register %d: %v", v.name, reg, err)
				return
			}
		}
		v.mu.Unlock()
	}
}
