package stacksim

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/internal/scsi"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/redirect"
)

// client is an initiator with a load.
type client struct {
	v    *volume
	name string
	iqn  string
	proc *process
	rng  *rand.Rand
	mu   sync.Mutex

	session    *initiator.Session
	redirect   context.CancelFunc // nil: it knows the portals of the chunks
	redirected chan error
	// A withdrawn client: its requests may end with a refusal.
	withdrawn bool
	ctx       context.Context
	stop      context.CancelFunc
	workers   sync.WaitGroup
	open      []pending // changes with an unknown outcome, since the last request that was begun
	pending   []pending // writes that ended with a refusal
	confirmed int64     // when the withdrawal was
	release   []func()  // what is to be done then
}

type pending struct{ reg, at int }

func (v *volume) newClient() (*client, error) {
	w := v.w
	w.clientN++
	c := &client{v: v, name: fmt.Sprintf("c%d", w.clientN), iqn: fmt.Sprintf("iqn.2024-01.io.sim:c%d", w.clientN), rng: w.fork()}
	c.ctx, c.stop = context.WithCancel(w.ctx)
	ip := fmt.Sprintf("10.0.8.%d", w.clientN)
	c.proc = w.net.host(ip).start()
	portals := w.portals(c.rng)
	if c.rng.IntN(2) == 0 {
		// By way of the redirector of its node.
		portals = []string{ip + ":3260"}
		ctx, cancel := context.WithCancel(context.Background())
		c.redirect, c.redirected = cancel, make(chan error, 1)
		o := redirect.DaemonOptions{Listen: portals[0], Meta: w.metaAddresses(), TLSDir: w.tls(mtls.RoleNode), Log: w.log(c.name + "/redirect"), ListenOn: c.proc.listen, Dial: c.proc.dial}
		go func() { c.redirected <- redirect.Run(ctx, o) }()
	}
	if err := v.publish(c.iqn); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	c.session, err = initiator.Dial(ctx, initiator.Options{Portals: portals, Target: v.iqn, Initiator: c.iqn, Log: w.log(c.name),
		HeaderDigest: c.rng.IntN(4) == 0, DataDigest: c.rng.IntN(4) == 0,
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return c.proc.dial(ctx, address) }})
	if err != nil {
		return nil, fmt.Errorf("log in of %s at volume %s: %w", c.name, v.name, err)
	}
	return c, nil
}

// portals are those of all nodes, in any order.
func (w *World) portals(rng *rand.Rand) []string {
	var out []string
	for _, i := range rng.Perm(len(w.nodes)) {
		out = append(out, w.nodes[i].ip+":10202")
	}
	return out
}

func (c *client) close() {
	if c.session != nil {
		_ = c.session.Close()
		c.session = nil
	}
	if c.redirect != nil {
		c.redirect()
		if err := <-c.redirected; err != nil {
			c.v.w.tracef("the redirector of %s ended with: %v", c.name, err)
		}
	}
	c.proc.host.stop(false)
}

func (c *client) intn(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.IntN(n)
}

// begin starts the load; it goes on until the context of the client ends.
func (c *client) begin() {
	for range c.v.w.cfg.Depth {
		c.v.w.clients.Add(1)
		c.workers.Go(func() {
			defer c.v.w.clients.Done()
			for c.ctx.Err() == nil && !c.v.w.failed() {
				c.next()
				_ = pause(c.ctx, time.Duration(c.intn(int(c.v.w.cfg.Think))+1))
			}
		})
	}
}

// next draws a request and performs it.
func (c *client) next() {
	switch p := c.intn(100); {
	case c.v.w.cfg.Counting && p < 30:
		c.count()
	case c.v.w.cfg.Counting && p < 40:
		c.readCounter()
	case c.v.w.cfg.Counting && p < 90:
		// Beside the counter, in its block.
		c.writeSectors(fineSectors-1-c.intn(7), 1)
	case p < 20:
		c.writeShared()
	case p < 45:
		c.readShared()
	case p < 55:
		c.writeFine()
	case p < 62:
		c.readFine()
	case p < 67:
		c.count()
	case p < 80:
		c.changeOwn()
	case p < 97:
		c.readOwn()
	default:
		c.do(&initiator.Request{Op: initiator.Flush})
	}
}

// outcome is how a request ended.
type outcome uint8

const (
	done outcome = iota
	unknown
	withdrawn
	miscompare
	attention // a unit attention, which commands that are passed through show: not done
	broken
)

// do performs a request. Anything but success, or what the initiator says may happen, is a violation.
func (c *client) do(r *initiator.Request) outcome {
	w := c.v.w
	what := fmt.Sprintf("%s %s op %d at %d length %d", c.v.name, c.name, r.Op, r.Offset, max(int(r.Length), len(r.Data)))
	began := time.Now()
	c.v.mu.Lock()
	key := fmt.Sprintf("%s #%d", what, c.v.rng.Uint32())
	c.v.open[key] = began
	c.v.mu.Unlock()
	c.mu.Lock()
	before := c.open
	c.open = nil
	c.mu.Unlock()
	err := c.session.Do(context.Background(), r)
	c.v.mu.Lock()
	delete(c.v.open, key)
	c.v.mu.Unlock()
	w.tracef("%s since %.4f: %v", what, began.Sub(w.began).Seconds(), err)
	c.mu.Lock()
	gone := c.withdrawn
	c.mu.Unlock()
	var se *initiator.StatusError
	switch {
	case err == nil:
		if r.Op == initiator.Read || r.Op == initiator.Raw && !r.DataOut {
			w.count(&w.stats.Reads)
		} else {
			w.count(&w.stats.Writes)
		}
		// The connection that answers was let in when what the one before had begun was done or could never be (I14).
		for _, p := range before {
			c.v.endedBy(p.reg, p.at, w.since())
		}
		return done
	case errors.Is(err, initiator.ErrOutcomeUnknown):
		return unknown
	case gone && (errors.Is(err, initiator.ErrRefused) || errors.Is(err, initiator.ErrClosed)):
		return withdrawn
	case errors.As(err, &se) && se.Status == scsi.CheckCondition && se.Sense.Key == scsi.Miscompare:
		return miscompare
	case r.Op == initiator.Raw && errors.As(err, &se) && se.Status == scsi.CheckCondition && se.Sense.Key == scsi.UnitAttention:
		return attention
	}
	w.fail("I/O error at %s: %s since %.4f s: %v", c.name, what, began.Sub(w.began).Seconds(), err)
	return broken
}

// end notes how a write ended.
func (c *client) end(how outcome, reg, at int) {
	switch how {
	case done:
		c.v.ended(reg, at)
	case unknown:
		c.mu.Lock()
		defer c.mu.Unlock()
		c.open = append(c.open, pending{reg, at})
	case withdrawn:
		// It may take effect until the withdrawal has been confirmed.
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.confirmed > 0 {
			c.v.endedBy(reg, at, c.confirmed)
			return
		}
		c.pending = append(c.pending, pending{reg, at})
	}
}

// settlePending notes, when the withdrawal of the client has been confirmed, that its writes have taken effect by now or never will: those that ended
// with a refusal, and those it has not been told of yet.
func (c *client) settlePending() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.confirmed = c.v.w.since()
	for _, p := range c.pending {
		c.v.endedBy(p.reg, p.at, c.confirmed)
	}
	c.pending = nil
	for _, f := range c.release {
		f()
	}
	c.release = nil
}

// offset of a block of the used ones, in bytes.
func (v *volume) offset(b int) uint64 { return (v.base + uint64(b)) * block.Size }

// write writes n units of a kind at an offset, each of them a register from reg on.
//
// A write whose connection breaks is sent again, and may then take effect twice, with what others wrote in between: the two are different writes for
// whoever reads meanwhile. Therefore each attempt writes values of its own.
func (c *client) write(offset uint64, unit, n int, sector func(i int) uint64, reg int) {
	v := c.v
	buf := make([]byte, n*unit)
	var attempts [][]int
	draw := func(*initiator.Request) {
		at := make([]int, n)
		for i := range n {
			val := v.newValue()
			fill(buf[i*unit:(i+1)*unit], v.tag, sector(i), val)
			at[i] = v.begin(reg+i, val, c.name)
		}
		attempts = append(attempts, at)
	}
	draw(nil)
	how := c.do(&initiator.Request{Op: initiator.Write, Offset: offset, Data: buf, OnRepeat: draw})
	for k, at := range attempts {
		for i := range n {
			if how == done && k < len(attempts)-1 {
				v.endedBy(reg+i, at[i], v.w.since())
			} else {
				c.end(how, reg+i, at[i])
			}
		}
	}
}

func (c *client) writeShared() {
	v := c.v
	from := c.intn(sharedBlocks)
	n := min(1+c.intn(8), sharedBlocks-from)
	c.write(v.offset(from), block.Size, n, func(i int) uint64 { return v.sector(from + i) }, from)
}

func (c *client) readShared() {
	from := c.intn(sharedBlocks)
	c.read(from, min(1+c.intn(8), sharedBlocks-from))
}

// read reads shared blocks and notes what they hold.
func (c *client) read(from, n int) bool {
	v := c.v
	buf := make([]byte, n*block.Size)
	call := v.w.since()
	if c.do(&initiator.Request{Op: initiator.Read, Offset: v.offset(from), Data: buf}) != done {
		return false
	}
	v.note(from, buf, call, v.w.since(), c.name)
	return true
}

// note enters what shared blocks were seen to hold.
func (v *volume) note(from int, buf []byte, call, ret int64, who string) {
	for i := range len(buf) / block.Size {
		val, err := value(buf[i*block.Size:(i+1)*block.Size], v.tag, v.sector(from+i))
		if err != nil {
			v.w.fail("volume %s, read by %s: block %d: %v", v.name, who, from+i, err)
			return
		}
		v.saw(from+i, val, call, ret, who)
	}
}

func (c *client) writeFine() {
	from := c.intn(fineSectors)
	c.writeSectors(from, min(1+c.intn(12), fineSectors-from))
}

func (c *client) writeSectors(from, n int) {
	first := c.v.sector(fineBlock) + uint64(from)
	c.write(first*sectorBytes, sectorBytes, n, func(i int) uint64 { return first + uint64(i) }, regFine+from)
}

func (c *client) readFine() {
	from := c.intn(fineSectors)
	c.readSectors(from, min(1+c.intn(16), fineSectors-from))
}

func (c *client) readSectors(from, n int) bool {
	v := c.v
	buf := make([]byte, n*sectorBytes)
	call := v.w.since()
	first := v.sector(fineBlock) + uint64(from)
	if c.do(&initiator.Request{Op: initiator.Read, Offset: first * sectorBytes, Data: buf}) != done {
		return false
	}
	v.noteSectors(from, buf, call, v.w.since(), c.name)
	return true
}

func (v *volume) noteSectors(from int, buf []byte, call, ret int64, who string) {
	for i := range len(buf) / sectorBytes {
		val, err := value(buf[i*sectorBytes:(i+1)*sectorBytes], v.tag, v.sector(fineBlock)+uint64(from+i))
		if err != nil {
			v.w.fail("volume %s, read by %s: %v", v.name, who, err)
			return
		}
		v.saw(regFine+from+i, val, call, ret, who)
	}
}

// readCounter reads the counter.
func (c *client) readCounter() (uint32, bool) {
	v := c.v
	buf := make([]byte, sectorBytes)
	call := v.w.since()
	if c.do(&initiator.Request{Op: initiator.Read, Offset: v.counterSector() * sectorBytes, Data: buf}) != done {
		return 0, false
	}
	val, err := value(buf, v.tag, v.counterSector())
	if err != nil {
		v.w.fail("volume %s counter: %v", v.name, err)
		return 0, false
	}
	v.saw(regCounter, val, call, v.w.since(), c.name)
	return val, true
}

// count changes the counter with COMPARE AND WRITE, from what it was a moment ago.
func (c *client) count() {
	v := c.v
	old, ok := c.readCounter()
	if !ok {
		return
	}
	val := v.newValue()
	sector := v.counterSector()
	buf := make([]byte, 2*sectorBytes)
	fill(buf[:sectorBytes], v.tag, sector, old)
	fill(buf[sectorBytes:], v.tag, sector, val)
	r := &initiator.Request{Op: initiator.Raw, Data: buf, DataOut: true}
	r.CDB[0] = scsi.OpCompareAndWrite
	binary.BigEndian.PutUint64(r.CDB[2:], sector)
	r.CDB[13] = 1
	call := v.w.since()
	at := v.begin(regCounter, val, c.name)
	switch how := c.do(r); how {
	case done:
		v.ended(regCounter, at)
		v.saw(regCounter, old, call, v.w.since(), c.name+" (compared)")
		v.mu.Lock()
		other, twice := v.counter[old]
		v.counter[old] = val
		v.mu.Unlock()
		if twice {
			v.w.fail("volume %s: two COMPARE AND WRITE found %d: they wrote %d and %d", v.name, old, other, val)
		}
	case miscompare, attention:
		v.refused(regCounter, at)
	default:
		c.end(how, regCounter, at)
		// What answers at once comes first: from its answer on it must be clear whether the command has been done.
		c.do(&initiator.Request{Op: initiator.Raw}) // TEST UNIT READY
		c.readCounter()
	}
}

// ownRange draws a free range of own blocks.
func (c *client) ownRange() (from, n int, ok bool) {
	n = 1 + c.intn(8)
	if c.intn(4) == 0 {
		n = 16 + c.intn(100)
	}
	from = c.intn(ownBlocks - n)
	if c.intn(2) == 0 {
		from &^= 15
	}
	return from, n, c.v.take(from, n)
}

// changeOwn writes, unmaps or zeroes own blocks.
func (c *client) changeOwn() {
	v := c.v
	from, n, ok := c.ownRange()
	if !ok {
		return
	}
	r := &initiator.Request{Op: initiator.Write, Offset: v.offset(ownFrom + from)}
	val := func(int) uint32 { return 0 }
	switch c.intn(5) {
	case 0:
		r.Op, r.Length = initiator.Unmap, uint64(n)*block.Size
	case 1:
		r.Op, r.Length = initiator.WriteZeroes, uint64(n)*block.Size
	default:
		x := v.newValue()
		val = func(int) uint32 { return x }
		r.Data = make([]byte, n*block.Size)
		fill(r.Data, v.tag, v.sector(ownFrom+from), x)
	}
	switch c.do(r) {
	case done:
		v.holds(from, n, val)
	case withdrawn:
		// It may take effect until the withdrawal has been confirmed: nobody else may use the blocks before.
		c.mu.Lock()
		defer c.mu.Unlock()
		release := func() { v.mayHold(from, n, val) }
		if c.confirmed > 0 {
			release()
			return
		}
		c.release = append(c.release, release)
	default:
		v.mayHold(from, n, val)
	}
}

func (c *client) readOwn() {
	v := c.v
	from, n, ok := c.ownRange()
	if !ok {
		return
	}
	c.checkOwn(from, n)
	v.mu.Lock()
	for i := from; i < from+n; i++ {
		v.own[i].busy = false
	}
	v.mu.Unlock()
}

// checkOwn reads own blocks that are taken.
func (c *client) checkOwn(from, n int) bool {
	v := c.v
	buf := make([]byte, n*block.Size)
	if c.do(&initiator.Request{Op: initiator.Read, Offset: v.offset(ownFrom + from), Data: buf}) != done {
		return false
	}
	for i := range n {
		val, err := value(buf[i*block.Size:(i+1)*block.Size], v.tag, v.sector(ownFrom+from+i))
		if err != nil {
			v.w.fail("volume %s, read by %s: own block %d: %v", v.name, c.name, from+i, err)
			return false
		}
		v.found(from+i, val)
	}
	return true
}

// unanswered lists requests under way, for a message.
func (w *World) unanswered() string {
	var out []string
	for _, v := range w.volumes {
		v.mu.Lock()
		for k, at := range v.open {
			out = append(out, fmt.Sprintf("%s since %.3f", k, at.Sub(w.began).Seconds()))
		}
		v.mu.Unlock()
	}
	sort.Strings(out)
	if len(out) > 5 {
		out = append(out[:5], fmt.Sprintf("and %d more", len(out)-5))
	}
	return strings.Join(out, "; ")
}
