// Command rival is a writer that expects to be replaced: two of them, on two nodes, must never both get through to one device. It fills all
// slots of a block device with its own name and a number, and from then on, round and round, reads each slot before it writes it again. A slot
// with another name than its own is a late write: one of a writer that had lost the volume.
//
// Its log is a file, because a pod that was deleted has none:
//
//	start NAME, took N of PREVIOUS    what the device held
//	owned                             every slot has been written once
//	try N, acked N                    before and after each hundredth write, and one that took more than a second
//	refused N: ERROR                  the write failed; it is tried again
//	LATE slot S holds NAME N          never
//
// It ignores SIGTERM: it writes as long as it is let.
package main

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"
)

const (
	slotSize = 4096
	nameMax  = 200
)

func main() {
	name := flag.String("name", "", "name of this writer")
	log := flag.String("log", "", "file that the log is appended to")
	slots := flag.Int64("slots", 256, "slots of the device that are used")
	every := flag.Duration("every", 5*time.Millisecond, "pause between writes")
	flag.Parse()
	if *name == "" || len(*name) > nameMax || *log == "" || flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: rival --name NAME --log FILE DEVICE")
		os.Exit(2)
	}
	signal.Ignore(syscall.SIGTERM)
	if err := run(flag.Arg(0), *name, *log, *slots, *every); err != nil {
		fmt.Fprintln(os.Stderr, "rival:", err)
		os.Exit(1)
	}
}

type rival struct {
	f    *os.File
	log  *os.File
	name string
	page []byte
	seq  uint64
}

func (r *rival) say(format string, args ...any) {
	fmt.Fprintf(r.log, "%d %s\n", time.Now().UnixMilli(), fmt.Sprintf(format, args...))
}

func run(device, name, log string, slots int64, every time.Duration) error {
	f, err := os.OpenFile(device, os.O_RDWR|syscall.O_DIRECT|syscall.O_DSYNC, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	r := &rival{f: f, log: out, name: name, page: aligned(slotSize)}
	previous := ""
	for slot := range slots {
		who, seq, err := r.read(slot)
		if err != nil {
			return err
		}
		if seq > r.seq {
			r.seq, previous = seq, who
		}
	}
	r.say("start %s, took %d of %s", name, r.seq, previous)
	for round := 0; ; round++ {
		for slot := range slots {
			if round > 0 {
				who, seq, err := r.read(slot)
				if err != nil {
					r.say("refused read of slot %d: %v", slot, err)
					time.Sleep(time.Second)
					continue
				}
				if who != name {
					r.say("LATE slot %d holds %s %d", slot, who, seq)
				}
			}
			r.write(slot)
			time.Sleep(every)
		}
		if round == 0 {
			r.say("owned")
		}
	}
}

func (r *rival) write(slot int64) {
	r.seq++
	loud := r.seq%100 == 0
	fill(r.page, r.name, r.seq)
	for {
		if loud {
			r.say("try %d", r.seq)
		}
		start := time.Now()
		_, err := r.f.WriteAt(r.page, slot*slotSize)
		if err == nil {
			if loud || time.Since(start) > time.Second {
				r.say("acked %d", r.seq)
			}
			return
		}
		r.say("refused %d: %v", r.seq, err)
		loud = true
		time.Sleep(200 * time.Millisecond)
	}
}

func (r *rival) read(slot int64) (name string, seq uint64, err error) {
	p := aligned(slotSize)
	if _, err := r.f.ReadAt(p, slot*slotSize); err != nil {
		return "", 0, fmt.Errorf("slot %d: %w", slot, err)
	}
	if bytes.Equal(p, make([]byte, slotSize)) {
		return "", 0, nil
	}
	if binary.LittleEndian.Uint32(p) != crc32.ChecksumIEEE(p[4:]) {
		return "", 0, fmt.Errorf("slot %d is torn", slot)
	}
	return string(bytes.TrimRight(p[12:12+nameMax], "\x00")), binary.LittleEndian.Uint64(p[4:]), nil
}

// fill draws a slot: checksum of the rest (4), number (8), name.
func fill(p []byte, name string, seq uint64) {
	clear(p)
	binary.LittleEndian.PutUint64(p[4:], seq)
	copy(p[12:12+nameMax], name)
	binary.LittleEndian.PutUint32(p, crc32.ChecksumIEEE(p[4:]))
}

// aligned returns memory that O_DIRECT accepts.
func aligned(n int) []byte {
	b := make([]byte, n+slotSize)
	off := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (slotSize - 1))
	return b[off : off+n]
}
