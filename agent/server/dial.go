package server

import (
	"errors"
	"fmt"
	"io"
	"net"
)

// Dial joins two streams to the agent's socket: what is read from in goes to the agent, its answers go to out. It returns when the agent
// has closed the connection, or after in has ended and the agent has finished answering.
func Dial(socket string, in io.Reader, out io.Writer) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return fmt.Errorf("reach the agent: %w (does its container run?)", err)
	}
	defer c.Close()
	go func() {
		// Ends with in, or when the deferred Close makes the write fail.
		_, _ = io.Copy(c, in)
		_ = c.(*net.UnixConn).CloseWrite()
	}()
	if _, err := io.Copy(out, c); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("relay the agent's answers: %w", err)
	}
	return nil
}
