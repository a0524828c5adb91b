package floor

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

const (
	batchBlocks   = 256
	journalBlocks = 64 << 10 // 256 MiB; it wraps round
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// journal commits blocks in groups: one direct, synchronous write for all that came in during the write before.
type journal struct {
	f     *os.File
	pos   int64
	mu    sync.Mutex
	cond  sync.Cond
	open  *batch // filled by add
	spare *batch
	done  func(ids []uint32) // called by the committer
}

type batch struct {
	buf []byte // aligned; the first block is the header: identifier and CRC of each
	ids []uint32
}

func newBatch() *batch {
	raw := make([]byte, (batchBlocks+2)*blockBytes)
	skip := -int(uintptr(unsafe.Pointer(&raw[0]))) & (blockBytes - 1)
	return &batch{buf: raw[skip : skip+(batchBlocks+1)*blockBytes], ids: make([]uint32, 0, batchBlocks)}
}

// openJournal opens path, which is written in full first: on unwritten extents every synchronous write also commits metadata.
func openJournal(path string, done func([]uint32)) (*journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_DIRECT, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	b := newBatch()
	for at := int64(0); at < journalBlocks; at += batchBlocks {
		if _, err := f.WriteAt(b.buf[:batchBlocks*blockBytes], at*blockBytes); err != nil {
			return nil, fmt.Errorf("write journal %s in full: %w", path, err)
		}
	}
	if err := f.Sync(); err != nil {
		return nil, fmt.Errorf("write journal %s in full: %w", path, err)
	}
	f.Close()
	if f, err = os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT|syscall.O_DSYNC, 0); err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	j := &journal{f: f, open: b, spare: newBatch(), done: done}
	j.cond.L = &j.mu
	return j, nil
}

// add puts a block into the open batch, waiting while that is full.
func (j *journal) add(id uint32, data []byte) {
	crc := crc32.Checksum(data, castagnoli)
	j.mu.Lock()
	for len(j.open.ids) == batchBlocks {
		j.cond.Wait()
	}
	n := len(j.open.ids)
	binary.LittleEndian.PutUint32(j.open.buf[8*n:], id)
	binary.LittleEndian.PutUint32(j.open.buf[8*n+4:], crc)
	copy(j.open.buf[(n+1)*blockBytes:], data)
	j.open.ids = append(j.open.ids, id)
	if n == 0 {
		j.cond.Broadcast()
	}
	j.mu.Unlock()
}

// run commits until the disk fails.
func (j *journal) run() error {
	for {
		j.mu.Lock()
		for len(j.open.ids) == 0 {
			j.cond.Wait()
		}
		b := j.open
		j.open, j.spare = j.spare, nil
		j.cond.Broadcast()
		j.mu.Unlock()
		n := int64(len(b.ids) + 1)
		if j.pos+n > journalBlocks {
			j.pos = 0
		}
		if _, err := j.f.WriteAt(b.buf[:n*blockBytes], j.pos*blockBytes); err != nil {
			return fmt.Errorf("write journal %s: %w", j.f.Name(), err)
		}
		j.pos += n
		j.done(b.ids)
		b.ids = b.ids[:0]
		j.mu.Lock()
		j.spare = b
		j.mu.Unlock()
	}
}
