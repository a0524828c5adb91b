package floor

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/iomesh/iomesh/tests/bench/load"
)

// Client drives a primary.
type Client struct{ c net.Conn }

// Dial connects to a primary.
func Dial(ctx context.Context, address string) (*Client, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to the floor's primary: %w", err)
	}
	return &Client{c}, nil
}

// Close ends the connection, and with it the primary and its replicas.
func (c *Client) Close() error { return c.c.Close() }

// Run writes blocks with depth requests in flight.
func (c *Client) Run(ctx context.Context, depth int, d time.Duration) (load.Result, error) {
	if depth > maxInFlight {
		return load.Result{}, fmt.Errorf("depth %d: at most %d", depth, maxInFlight)
	}
	var h load.Histogram
	frame := make([]byte, headerBytes+blockBytes)
	binary.LittleEndian.PutUint32(frame[4:], blockBytes)
	started := make([]time.Time, depth)
	send := func(id uint32) error {
		binary.LittleEndian.PutUint32(frame, id)
		started[id] = time.Now()
		_, err := c.c.Write(frame)
		return err
	}
	begin := time.Now()
	for id := range depth {
		if err := send(uint32(id)); err != nil {
			return load.Result{}, fmt.Errorf("send to the floor's primary: %w", err)
		}
	}
	buf := make([]byte, 4*maxInFlight)
	for open, have := depth, 0; open > 0; {
		n, err := io.ReadAtLeast(c.c, buf[have:], 1)
		if err != nil {
			return load.Result{}, fmt.Errorf("acknowledgement of the floor's primary: %w", err)
		}
		have += n
		now := time.Now()
		for i := 0; i+4 <= have; i += 4 {
			id := binary.LittleEndian.Uint32(buf[i:])
			h.Add(now.Sub(started[id]))
			if now.Sub(begin) >= d || ctx.Err() != nil {
				open--
				continue
			}
			if err := send(id); err != nil {
				return load.Result{}, fmt.Errorf("send to the floor's primary: %w", err)
			}
		}
		have = copy(buf, buf[have&^3:have])
	}
	return load.Summary(&h, blockBytes, time.Since(begin)), ctx.Err()
}
