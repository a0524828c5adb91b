package target_test

import (
	"context"
	"encoding/binary"
	"net"
	"sync"
	"testing"

	"github.com/iomesh/iomesh/internal/iscsi/login"
	"github.com/iomesh/iomesh/internal/iscsi/pdu"
	"github.com/iomesh/iomesh/internal/scsi"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/target"
	"github.com/iomesh/iomesh/storaged/target/memvolume"
)

// pipes is a net.Listener of in-memory connections, for tests under synctest.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), done: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case p.conns <- b:
		return a, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// piped is a target on pipes, to be used inside a synctest bubble.
type piped struct {
	t    *testing.T
	dir  *memvolume.Directory
	vol  *memvolume.Volume
	srv  *target.Server
	net  *pipes
	iqn  string
	done chan error
}

func newPiped(t *testing.T, o target.Options) *piped {
	p := &piped{t: t, dir: memvolume.NewDirectory(), net: newPipes(), done: make(chan error, 1)}
	id := block.NewVolumeID()
	p.vol = memvolume.New(id, 1<<20)
	p.iqn = p.dir.Serve(id, p.vol, target.Grant{Generation: 1})
	o.Directory = p.dir
	srv, err := target.New(o)
	if err != nil {
		t.Fatal(err)
	}
	p.srv = srv
	go func() { p.done <- srv.Serve(p.net) }()
	return p
}

func (p *piped) close() {
	p.srv.Close()
	<-p.done
}

// raw is an initiator that sends exactly what a test says.
type raw struct {
	t     testing.TB
	c     net.Conn
	r     *pdu.Reader
	w     pdu.Batch
	out   login.Outcome
	cmdSN uint32
	itt   uint32
}

func isid(n byte) [6]byte { return [6]byte{0x80, 0, 0, 0, 0, n} }

// rawLogin logs in, or returns the error.
func rawLogin(t testing.TB, c net.Conn, iqn, name string, id [6]byte, wishes login.Wishes) (*raw, error) {
	x := &raw{t: t, c: c, r: pdu.NewReader(c, login.SegmentMax)}
	out, err := login.Connect(login.Stream{R: x.r, W: &x.w, C: c},
		login.Request{Initiator: name, Target: iqn, ISID: id, Wishes: wishes, CmdSN: 7})
	x.out, x.cmdSN = out, out.CmdSN
	return x, err
}

func (p *piped) raw(name string, id [6]byte) *raw {
	p.t.Helper()
	c, err := p.net.dial(context.Background(), "", "")
	if err != nil {
		p.t.Fatal(err)
	}
	x, err := rawLogin(p.t, c, p.iqn, name, id, login.DefaultWishes())
	if err != nil {
		p.t.Fatal(err)
	}
	return x
}

func (x *raw) send(h *pdu.Header, data []byte) {
	x.t.Helper()
	x.w.Add(h, data)
	if _, err := x.w.WriteTo(x.c); err != nil {
		x.t.Fatal(err)
	}
}

// command sends a SCSI command with all its data immediately and returns its tag.
func (x *raw) command(cdb []byte, data []byte, expect int) uint32 {
	x.t.Helper()
	var h pdu.Header
	h.SetOpcode(pdu.SCSICmd)
	flags := byte(pdu.Final)
	if len(data) > 0 {
		flags |= pdu.Write
	} else if expect > 0 {
		flags |= pdu.Read
	}
	h.SetFlags(flags)
	h.SetExpectedLen(uint32(expect))
	h.SetLUN(pdu.LUNOf(1))
	x.itt++
	h.SetITT(x.itt)
	h.SetCmdSN(x.cmdSN)
	x.cmdSN++
	copy(h.CDB(), cdb)
	x.send(&h, data)
	return x.itt
}

func write16(lba uint64, blocks uint32) []byte { return medium16(scsi.OpWrite16, lba, blocks) }
func read16(lba uint64, blocks uint32) []byte  { return medium16(scsi.OpRead16, lba, blocks) }

func medium16(op byte, lba uint64, blocks uint32) []byte {
	b := make([]byte, 16)
	b[0] = op
	binary.BigEndian.PutUint64(b[2:], lba)
	binary.BigEndian.PutUint32(b[10:], blocks)
	return b
}

// immediate sends an immediate request.
func (x *raw) immediate(op pdu.Opcode, function byte, change func(*pdu.Header)) uint32 {
	x.t.Helper()
	var h pdu.Header
	h.SetImmediate(op)
	h.SetFlags(pdu.Final | function)
	h.SetLUN(pdu.LUNOf(1))
	x.itt++
	h.SetITT(x.itt)
	h.SetCmdSN(x.cmdSN)
	if change != nil {
		change(&h)
	}
	x.send(&h, nil)
	return x.itt
}

// next returns the next PDU of the target with its data.
func (x *raw) next() (pdu.Header, []byte, error) {
	h, err := x.r.Next()
	if err != nil {
		return pdu.Header{}, nil, err
	}
	keep := *h
	data := make([]byte, h.DataLen())
	err = x.r.ReadData(data)
	return keep, data, err
}

// answers delivers what the target sends until the connection ends.
func (x *raw) answers() <-chan pdu.Header {
	ch := make(chan pdu.Header, 100)
	go func() {
		defer close(ch)
		for {
			h, _, err := x.next()
			if err != nil {
				return
			}
			ch <- h
		}
	}()
	return ch
}

var initiatorWishes = login.DefaultWishes()

// reserveOut sends PERSISTENT RESERVE OUT.
func (x *raw) reserveOut(action, kind byte, key, service uint64) {
	x.t.Helper()
	cdb := make([]byte, 16)
	cdb[0], cdb[1], cdb[2], cdb[8] = scsi.OpPROut, action, kind, 24
	data := make([]byte, 24)
	binary.BigEndian.PutUint64(data, key)
	binary.BigEndian.PutUint64(data[8:], service)
	x.command(cdb, data, 24)
}
