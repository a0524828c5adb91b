package target_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/iscsi/login"
	"github.com/iomesh/iomesh/internal/iscsi/pdu"
	"github.com/iomesh/iomesh/internal/scsi"
	"github.com/iomesh/iomesh/storaged/target"
)

// rawTCP logs in over TCP as a client that will misbehave.
func (r *rig) rawTCP(name string, id byte) *raw {
	r.t.Helper()
	c, err := net.Dial("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	x, err := rawLogin(r.t, c, r.iqn, name, isid(id), login.DefaultWishes())
	if err != nil {
		r.t.Fatal(err)
	}
	return x
}

// eventually waits for what other goroutines are about to do; the test's own time-out bounds it.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	ctx := bounded(t)
	for !f() {
		if ctx.Err() != nil {
			t.Fatalf("never: %s", what)
		}
		runtime.Gosched()
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func manyReads(x *raw) {
	for range 128 {
		x.command(read16(0, 8192), nil, 4<<20)
	}
}

func TestHostileClientsCostBoundedMemoryAndHarmNobody(t *testing.T) {
	const quota = 8 << 20
	for _, c := range []struct {
		name string
		act  func(x *raw) // until the connection breaks or everything is sent
		lend bool
	}{
		{"large writes whose data never come", func(x *raw) {
			for range 128 {
				var h pdu.Header
				h.SetOpcode(pdu.SCSICmd)
				h.SetFlags(pdu.Final | pdu.Write)
				h.SetExpectedLen(4 << 20)
				h.SetLUN(pdu.LUNOf(1))
				x.itt++
				h.SetITT(x.itt)
				h.SetCmdSN(x.cmdSN)
				x.cmdSN++
				copy(h.CDB(), write16(0, 8192))
				x.w.Add(&h, nil)
			}
			_, _ = x.w.WriteTo(x.c)
		}, false},
		{"large reads whose data are never taken", manyReads, false},
		{"large reads of lent memory whose data are never taken", manyReads, true},
		{"pings with data whose answers are never taken", func(x *raw) {
			_ = x.c.SetWriteDeadline(time.Now().Add(time.Second))
			var h pdu.Header
			h.SetImmediate(pdu.NopOut)
			h.SetFlags(pdu.Final)
			h.SetITT(1)
			data := make([]byte, 64<<10)
			for {
				x.w.Add(&h, data)
				if _, err := x.w.WriteTo(x.c); err != nil {
					return
				}
			}
		}, false},
		{"immediate commands without end", func(x *raw) {
			_ = x.c.SetWriteDeadline(time.Now().Add(time.Second))
			for i := range 20000 {
				var h pdu.Header
				h.SetImmediate(pdu.SCSICmd)
				h.SetFlags(pdu.Final | pdu.Read)
				h.SetExpectedLen(1 << 20)
				h.SetLUN(pdu.LUNOf(1))
				h.SetITT(uint32(i))
				copy(h.CDB(), read16(0, 2048))
				x.w.Add(&h, nil)
				if _, err := x.w.WriteTo(x.c); err != nil {
					return
				}
			}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, target.Options{SessionBytesMax: quota})
			if c.lend {
				r.vol.LendReads()
			}
			good := r.dial("iqn.2026-01.test:good")
			if err := good.WriteAt(r.ctx(), make([]byte, 64<<20), 0); err != nil {
				t.Fatal(err)
			}
			before := heap()
			x := r.rawTCP("iqn.2026-01.test:bad", 9)
			c.act(x)
			// Somebody else goes on.
			want := random(256 << 10)
			got := make([]byte, len(want))
			for i := range 50 {
				at := uint64(i) * uint64(len(want))
				if err := good.WriteAt(r.ctx(), want, at); err != nil {
					t.Fatal(err)
				}
				if err := good.ReadAt(r.ctx(), got, at); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("another session reads wrong data (%v)", err)
				}
			}
			held := r.srv.Totals().DataBytes
			if lent := r.vol.LentBytes(); lent > 2*quota {
				t.Errorf("%d bytes are lent, %d allowed for two sessions", lent, 2*quota)
			}
			if held > 2*quota {
				t.Errorf("%d bytes in buffers, %d allowed for two sessions", held, 2*quota)
			}
			// Free buffers of the pool (64 MiB) and socket buffers aside.
			if grown := int64(heap()) - int64(before); grown > 2*quota+(64<<20)+(24<<20) {
				t.Errorf("heap grew by %d bytes", grown)
			}
			x.c.Close()
			eventually(t, "buffers are given back", func() bool { return r.srv.Totals().DataBytes == 0 })
		})
	}
}

func TestMalformedPDUsEndTheConnectionOnly(t *testing.T) {
	command := func(x *raw) *pdu.Header {
		var h pdu.Header
		h.SetOpcode(pdu.SCSICmd)
		h.SetFlags(pdu.Final | pdu.Write)
		h.SetExpectedLen(512)
		h.SetLUN(pdu.LUNOf(1))
		h.SetITT(1)
		h.SetCmdSN(x.cmdSN)
		copy(h.CDB(), write16(0, 1))
		return &h
	}
	for _, c := range []struct {
		name string
		act  func(x *raw)
	}{
		{"a data segment longer than agreed", func(x *raw) {
			h := command(x)
			h.SetDataLen(1<<24 - 1)
			_, _ = x.c.Write(h[:])
		}},
		{"a CmdSN that leaves a gap", func(x *raw) {
			h := command(x)
			h.SetCmdSN(x.cmdSN + 3)
			x.send(h, older)
		}},
		{"more immediate data than the command expects", func(x *raw) { x.send(command(x), make([]byte, 1024)) }},
		{"a login request in full feature phase, followed by the end", func(x *raw) {
			var h pdu.Header
			h.SetImmediate(pdu.LoginReq)
			x.send(&h, nil)
			_ = x.c.(*net.TCPConn).CloseWrite()
		}},
		{"half a header", func(x *raw) { _, _ = x.c.Write(make([]byte, 20)); _ = x.c.(*net.TCPConn).CloseWrite() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, target.Options{})
			x := r.rawTCP(someone, 1)
			c.act(x)
			_ = x.c.SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err := io.Copy(io.Discard, x.c); err != nil {
				t.Errorf("connection was not closed: %v", err)
			}
			eventually(t, "the session ends", func() bool { return len(r.srv.Sessions("")) == 0 })
			r.dial(someone) // the target lives
		})
	}
}

func TestRandomPDUsNeitherPanicNorLeak(t *testing.T) {
	r := newRig(t, target.Options{})
	rng := rand.New(rand.NewPCG(3, 4))
	opcodes := []pdu.Opcode{pdu.NopOut, pdu.SCSICmd, pdu.SCSICmd, pdu.SCSICmd, pdu.TaskReq, pdu.TextReq, pdu.DataOut, pdu.DataOut, pdu.SNACK, 0x1f}
	for round := range 150 {
		x := r.rawTCP(fmt.Sprintf("iqn.2026-01.test:%d", round%3), byte(round%5))
		go func() { _, _ = io.Copy(io.Discard, x.c) }()
		for range 200 {
			var h pdu.Header
			for i := range h {
				if rng.IntN(3) == 0 {
					h[i] = byte(rng.Uint32())
				}
			}
			op := opcodes[rng.IntN(len(opcodes))]
			if rng.IntN(2) == 0 {
				h.SetImmediate(op)
			} else {
				h.SetOpcode(op)
				h.SetCmdSN(x.cmdSN)
				if op != pdu.DataOut {
					x.cmdSN++
				}
			}
			if rng.IntN(4) > 0 {
				h.SetLUN(pdu.LUNOf(1))
			}
			h.SetExpectedLen(uint32(rng.IntN(70000)))
			h.SetITT(uint32(rng.IntN(8)))
			if op == pdu.DataOut {
				h.SetTTT(pdu.NoTag)
			}
			if op == pdu.SCSICmd {
				cdbs := [][]byte{write16(uint64(rng.IntN(200)), uint32(rng.IntN(200))), read16(uint64(rng.IntN(200)), uint32(rng.IntN(200))),
					medium16(scsi.OpWriteSame16, 0, 8), {scsi.OpUnmap, 0, 0, 0, 0, 0, 0, 0, 24, 0}, {scsi.OpPROut, byte(rng.IntN(8)), byte(rng.IntN(9)), 0, 0, 0, 0, 0, 24}}
				copy(h.CDB(), cdbs[rng.IntN(len(cdbs))])
			}
			data := make([]byte, rng.IntN(3)*rng.IntN(2000))
			if op == pdu.SCSICmd && rng.IntN(2) == 0 {
				h.SetFlags(h.Flags() | pdu.Write)
				h.SetExpectedLen(uint32(len(data)))
			}
			x.w.Add(&h, data)
			if _, err := x.w.WriteTo(x.c); err != nil {
				break
			}
		}
		x.c.Close()
	}
	eventually(t, "all sessions end", func() bool { return len(r.srv.Sessions("")) == 0 })
	eventually(t, "all buffers are given back", func() bool { return r.srv.Totals().DataBytes == 0 })
}

func TestLoginFloodLeavesRoomForLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiped(t, target.Options{LoginsMax: 20, LoginTimeout: 5 * time.Second})
		defer p.close()
		for range 200 {
			if _, err := p.net.dial(t.Context(), "", ""); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := p.srv.Totals(); n.Logins > 20 || n.RefusedConnections < 180 {
			t.Errorf("%d logins in progress, %d refused", n.Logins, n.RefusedConnections)
		}
		time.Sleep(6 * time.Second) // of the bubble's clock: the silent ones are dropped
		s, err := initiator.Dial(t.Context(), initiator.Options{Portals: []string{"pipe"}, Target: p.iqn, Initiator: someone, DialContext: p.net.dial})
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
	})
}

// flip is a connection that damages one byte of what is written.
type flip struct {
	net.Conn
	at int // of the bytes still to come
}

func (f *flip) Write(b []byte) (int, error) {
	if f.at >= 0 && f.at < len(b) {
		c := bytes.Clone(b)
		c[f.at] ^= 1
		b = c
	}
	f.at -= len(b)
	return f.Conn.Write(b)
}

func TestDigestErrors(t *testing.T) {
	for _, c := range []struct {
		name   string
		at     int
		closes bool
	}{{"in the data fails the command", 100, false}, {"in the header ends the connection", 33, true}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, target.Options{})
			plain, err := net.Dial("tcp", r.address)
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			f := &flip{Conn: plain, at: -1}
			w := login.DefaultWishes()
			w.HeaderDigest, w.DataDigest = []string{"CRC32C"}, []string{"CRC32C"}
			x, err := rawLogin(t, f, r.iqn, someone, isid(1), w)
			if err != nil {
				t.Fatal(err)
			}
			f.at = c.at
			x.command(write16(0, 1), older, 512)
			_ = plain.SetReadDeadline(time.Now().Add(30 * time.Second))
			var got []pdu.Opcode
			for {
				h, _, err := x.next()
				if err != nil {
					if !c.closes || errors.Is(err, pdu.ErrDataDigest) {
						t.Error(err)
					}
					break
				}
				got = append(got, h.Opcode())
				if h.Opcode() == pdu.SCSIResp {
					if h.SCSIStatus() != byte(scsi.CheckCondition) {
						t.Errorf("status %#x", h.SCSIStatus())
					}
					break
				}
			}
			if !c.closes && (len(got) != 2 || got[0] != pdu.Reject) {
				t.Errorf("got opcodes %v, want a Reject and a response", got)
			}
			data := make([]byte, 512)
			r.vol.Submit(&target.Command{Op: target.OpRead, Length: 512, Data: data, Done: func(*target.Command, target.Result) {}})
			if bytes.Contains(data, []byte{1}) || bytes.Contains(data, []byte{0x41}) {
				t.Error("damaged data were written")
			}
		})
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	r := newRig(t, target.Options{})
	s := r.dial(someone)
	ops := func(n int) {
		done := make(chan struct{})
		left := n
		q := &initiator.Request{Op: initiator.Write, Data: make([]byte, 4096)}
		q.Done = func(q *initiator.Request) {
			if q.Err != nil {
				t.Error(q.Err)
			}
			if left--; left == 0 {
				close(done)
				return
			}
			q.Op = initiator.Read + initiator.Write - q.Op
			s.Submit(q)
		}
		s.Submit(q)
		<-done
	}
	ops(2000)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	const n = 5000
	ops(n)
	runtime.ReadMemStats(&after)
	if per := float64(after.Mallocs-before.Mallocs) / n; per > 0.6 { // sync.Pool drops some under the race detector
		t.Errorf("%.2f allocations per command", per)
	}
}
