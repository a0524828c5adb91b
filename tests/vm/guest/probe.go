package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// probe writes and reads blocks of a file, past the page cache, one after another: each write is acknowledged as durable before the next
// begins. It remembers what was acknowledged and compares what it reads.
type probe struct {
	file  *os.File
	page  []byte
	acked []uint64
	stop  chan struct{}
	done  chan struct{}

	mu      sync.Mutex
	ops     uint64
	longest time.Duration
	begun   time.Time // of the operation in progress
	err     string
}

const (
	pageBytes  = 4096
	probePages = 512
	probePause = 5 * time.Millisecond
)

type probes struct {
	mu sync.Mutex
	m  map[string]*probe
}

func newProbes() *probes { return &probes{m: map[string]*probe{}} }

type probeRequest struct{ Name, Path string }

type probeResult struct {
	Ops       uint64
	LongestMs int64
	Error     string
}

func (p *probes) start(r probeRequest) (probeResult, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m[r.Name] != nil {
		return probeResult{}, fmt.Errorf("probe %s runs already", r.Name)
	}
	x := &probe{acked: make([]uint64, probePages), stop: make(chan struct{}), done: make(chan struct{})}
	f, err := os.OpenFile(r.Path, os.O_CREATE|os.O_RDWR|unix.O_DIRECT|unix.O_DSYNC, 0o600)
	if err != nil {
		return probeResult{}, err
	}
	raw := make([]byte, 2*pageBytes)
	skew := int(uintptr(unsafe.Pointer(&raw[0])) % pageBytes)
	x.file, x.page = f, raw[pageBytes-skew:][:pageBytes]
	for i := range probePages { // written in full, so that later writes change no metadata of the filesystem
		if _, err := f.WriteAt(x.page, int64(i)*pageBytes); err != nil {
			return probeResult{}, err
		}
	}
	p.m[r.Name] = x
	go x.run()
	return probeResult{}, nil
}

func (p *probes) get(name string) (*probe, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if x := p.m[name]; x != nil {
		return x, nil
	}
	return nil, fmt.Errorf("no probe %s", name)
}

// window says what happened since the last window, an operation still in progress included.
func (p *probes) window(r probeRequest) (probeResult, error) {
	x, err := p.get(r.Name)
	if err != nil {
		return probeResult{}, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	out := probeResult{Ops: x.ops, LongestMs: x.longest.Milliseconds(), Error: x.err}
	if !x.begun.IsZero() {
		out.LongestMs = max(out.LongestMs, time.Since(x.begun).Milliseconds())
	}
	x.ops, x.longest = 0, 0
	return out, nil
}

// stop ends a probe and reads everything once more.
func (p *probes) stop(r probeRequest) (probeResult, error) {
	x, err := p.get(r.Name)
	if err != nil {
		return probeResult{}, err
	}
	close(x.stop)
	<-x.done
	p.mu.Lock()
	delete(p.m, r.Name)
	p.mu.Unlock()
	for i := range probePages {
		if err := x.read(i); err != nil && x.err == "" {
			x.err = err.Error()
		}
	}
	if err := x.file.Close(); err != nil && x.err == "" {
		x.err = err.Error()
	}
	return probeResult{Ops: x.ops, LongestMs: x.longest.Milliseconds(), Error: x.err}, nil
}

func (x *probe) run() {
	defer close(x.done)
	for {
		select {
		case <-x.stop:
			return
		case <-time.After(probePause):
		}
		i := rand.IntN(probePages)
		x.mu.Lock()
		x.begun = time.Now()
		x.mu.Unlock()
		err := x.write(i)
		if err == nil {
			err = x.read(rand.IntN(probePages))
		}
		x.mu.Lock()
		x.longest = max(x.longest, time.Since(x.begun))
		x.begun = time.Time{}
		x.ops++
		if err != nil {
			x.err = err.Error()
			x.mu.Unlock()
			return
		}
		x.mu.Unlock()
	}
}

func (x *probe) write(i int) error {
	for at := 0; at < pageBytes; at += 16 {
		binary.LittleEndian.PutUint64(x.page[at:], uint64(i))
		binary.LittleEndian.PutUint64(x.page[at+8:], x.acked[i]+1)
	}
	if _, err := x.file.WriteAt(x.page, int64(i)*pageBytes); err != nil {
		return err
	}
	x.acked[i]++
	return nil
}

func (x *probe) read(i int) error {
	if _, err := x.file.ReadAt(x.page, int64(i)*pageBytes); err != nil {
		return err
	}
	for at := 0; at < pageBytes; at += 16 {
		n, v := binary.LittleEndian.Uint64(x.page[at:]), binary.LittleEndian.Uint64(x.page[at+8:])
		if x.acked[i] == 0 && n == 0 && v == 0 {
			continue
		}
		if n != uint64(i) || v != x.acked[i] {
			return fmt.Errorf("block %d holds block %d version %d, version %d was acknowledged", i, n, v, x.acked[i])
		}
	}
	return nil
}
