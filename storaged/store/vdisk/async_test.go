package vdisk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// asyncDisk is a file of pages that begin with their number, or the test is skipped where there are no asynchronous reads.
func asyncDisk(t *testing.T, pages int) (*Real, Async) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := Prewrite(context.Background(), path, int64(pages)*PageSize, nil); err != nil {
		t.Fatal(err)
	}
	r, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	a := r.Async()
	if a == nil {
		r.Close()
		t.Skip("no asynchronous reads of files here")
	}
	p := Aligned(pages * PageSize)
	for i := range pages {
		binary.LittleEndian.PutUint64(p[i*PageSize:], uint64(i))
	}
	if err := r.WriteAt(p, 0); err != nil {
		t.Fatal(err)
	}
	return r, a
}

// collector is an owner that keeps what has ended.
type collector struct {
	mu   sync.Mutex
	left int
	bad  []error
	done chan struct{}
}

func (c *collector) ReadsEnded(rs []*Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range rs {
		page := r.User.(int)
		switch {
		case errors.Is(r.Err, ErrWouldBlock):
		case r.Err != nil:
			c.bad = append(c.bad, r.Err)
		case binary.LittleEndian.Uint64(r.Data) != uint64(page):
			c.bad = append(c.bad, errors.New("a read got another page"))
		}
		if c.left--; c.left == 0 {
			close(c.done)
		}
	}
}

func TestManyReadsAtATimeEachGetTheirPage(t *testing.T) {
	const pages, reads = 1024, 1000
	r, a := asyncDisk(t, pages)
	defer r.Close()
	c := &collector{left: reads, done: make(chan struct{})}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range reads {
		page := rnd.IntN(pages)
		if !a.TryRead(&Request{Off: int64(page) * PageSize, Data: Aligned(PageSize), Owner: c, User: page}) {
			t.Fatal("refused")
		}
		if i%7 == 0 {
			a.Kick()
		}
	}
	a.Kick()
	<-c.done
	if len(c.bad) > 0 {
		t.Errorf("%d bad, the first: %v", len(c.bad), c.bad[0])
	}
}

func TestReadAllReadsMoreThanTheDiskTakesAtATime(t *testing.T) {
	const pages = 700
	r, a := asyncDisk(t, pages)
	defer r.Close()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			rs := make([]*Request, pages)
			buf := Aligned(pages * PageSize)
			for i := range rs {
				at := pages - 1 - i
				rs[i] = &Request{Off: int64(at) * PageSize, Data: buf[at*PageSize : (at+1)*PageSize]}
			}
			if err := a.ReadAll(rs); err != nil {
				t.Error(err)
			}
			for i := range pages {
				if binary.LittleEndian.Uint64(buf[i*PageSize:]) != uint64(i) {
					t.Fatalf("page %d holds another", i)
				}
			}
		})
	}
	wg.Wait()
	if err := a.ReadAll(nil); err != nil {
		t.Error(err)
	}
}

func TestReadsThatTheDiskCannotDoAreRefusedOrFail(t *testing.T) {
	r, a := asyncDisk(t, 4)
	defer r.Close()
	odd := Aligned(2 * PageSize)[512 : 512+PageSize]
	for name, q := range map[string]*Request{
		"beyond the end":          {Off: 4 * PageSize, Data: Aligned(PageSize)},
		"not at a page":           {Off: 512, Data: Aligned(PageSize)},
		"not a whole page":        {Off: 0, Data: Aligned(PageSize)[:512]},
		"not to a page in memory": {Off: 0, Data: odd},
	} {
		if a.TryRead(q) {
			t.Errorf("%s: taken", name)
		}
		good := &Request{Off: PageSize, Data: Aligned(PageSize)}
		if err := a.ReadAll([]*Request{q, good}); err == nil {
			t.Errorf("%s: no error", name)
		} else if binary.LittleEndian.Uint64(good.Data) != 1 {
			t.Errorf("%s: the other read was not done", name)
		}
	}
}

func TestCloseWaitsForReadsUnderWay(t *testing.T) {
	r, a := asyncDisk(t, 64)
	c := &collector{left: 64, done: make(chan struct{})}
	for i := range 64 {
		a.TryRead(&Request{Off: int64(i) * PageSize, Data: Aligned(PageSize), Owner: c, User: i})
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.done:
	default:
		t.Error("closed before all reads had ended")
	}
}

func TestAReadErrorNamesThePlace(t *testing.T) {
	r, a := asyncDisk(t, 16)
	defer r.Close()
	// Behind the disk's back the file gets shorter.
	if err := os.Truncate(r.path, 8*PageSize); err != nil {
		t.Fatal(err)
	}
	err := a.ReadAll([]*Request{{Off: 12 * PageSize, Data: Aligned(PageSize)}})
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("at 49152 of "+r.path)) {
		t.Errorf("error %v", err)
	}
}
