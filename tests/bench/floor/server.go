package floor

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
)

// Serve accepts one connection on l and journals what comes in, forwarding it to the replicas first, if any. It returns when the client
// goes away.
func Serve(l net.Listener, journalPath string, replicas []string) error {
	s := &server{need: int32(1 + len(replicas))}
	j, err := openJournal(journalPath, s.durable)
	if err != nil {
		return err
	}
	for _, r := range replicas {
		c, err := net.Dial("tcp", r)
		if err != nil {
			return fmt.Errorf("connect to replica: %w", err)
		}
		s.replicas = append(s.replicas, newSender(c))
		go s.acks(c)
	}
	c, err := l.Accept()
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	s.client = newSender(c)
	go func() { _ = j.run() }()
	in := bufio.NewReaderSize(c, 1<<20)
	frame := make([]byte, headerBytes+blockBytes)
	for {
		if _, err := io.ReadFull(in, frame); err != nil {
			return nil // the client is gone
		}
		id := binary.LittleEndian.Uint32(frame)
		if id >= maxInFlight || binary.LittleEndian.Uint32(frame[4:]) != blockBytes {
			return fmt.Errorf("frame %d of %d bytes: not of this protocol", id, binary.LittleEndian.Uint32(frame[4:]))
		}
		s.left[id].Store(s.need)
		for _, r := range s.replicas {
			r.send(frame)
		}
		j.add(id, frame[headerBytes:])
	}
}

type server struct {
	need     int32
	left     [maxInFlight]atomic.Int32
	replicas []*sender
	client   *sender
}

// durable counts down and acknowledges what all have.
func (s *server) durable(ids []uint32) {
	var out [4 * batchBlocks]byte
	n := 0
	for _, id := range ids {
		if s.left[id].Add(-1) == 0 {
			binary.LittleEndian.PutUint32(out[n:], id)
			n += 4
		}
	}
	if n > 0 {
		s.client.send(out[:n])
	}
}

// acks reads a replica's acknowledgements.
func (s *server) acks(c net.Conn) {
	buf, ids := make([]byte, 4*batchBlocks), make([]uint32, 0, batchBlocks)
	for have := 0; ; {
		n, err := c.Read(buf[have:])
		if err != nil {
			return
		}
		have += n
		ids = ids[:0]
		for i := 0; i+4 <= have; i += 4 {
			ids = append(ids, binary.LittleEndian.Uint32(buf[i:]))
		}
		s.durable(ids)
		have = copy(buf, buf[have&^3:have])
	}
}

// sender writes to a connection what has been gathered since the last write, from a goroutine of its own.
type sender struct {
	mu   sync.Mutex
	cond sync.Cond
	buf  []byte
}

func newSender(c net.Conn) *sender {
	s := &sender{}
	s.cond.L = &s.mu
	go func() {
		var out []byte
		for {
			s.mu.Lock()
			for len(s.buf) == 0 {
				s.cond.Wait()
			}
			out, s.buf = s.buf, out[:0]
			s.mu.Unlock()
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	}()
	return s
}

func (s *sender) send(p []byte) {
	s.mu.Lock()
	s.buf = append(s.buf, p...)
	s.mu.Unlock()
	s.cond.Signal()
}
