package mtls

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

var (
	recordSwitch   = []byte("IOMESH SWITCH 1\n")
	recordSwitchOK = []byte("IOMESH SWITCH-OK\n")
	plainMark      = []byte("IOMESH-P")
)

// ConnectPlain proves both identities over a new connection as the client and then leaves TLS on it (package
// documentation). It returns the peer's identity; conn itself carries the plain bytes afterwards. On an error conn is
// closed. cfg comes from ClientConfig; the peer's address is added to its errors. ctx bounds the exchange only.
func (s *Source) ConnectPlain(ctx context.Context, conn net.Conn, expected ...Role) (Identity, error) {
	tc := tls.Client(conn, s.clientConfig(conn.RemoteAddr().String(), expected))
	id, err := exchange(ctx, conn, tc, func() error {
		if _, err := tc.Write(recordSwitch); err != nil {
			return err
		}
		if err := expect(tc, recordSwitchOK); err != nil {
			return fmt.Errorf("waiting for its consent to go on in plain (it refuses a wrong role of ours here): %w", err)
		}
		_, err := conn.Write(plainMark)
		return err
	})
	if err != nil {
		return Identity{}, fmt.Errorf("connect to %s: %w", conn.RemoteAddr(), err)
	}
	return id, nil
}

// AcceptPlain is the server's side of ConnectPlain.
func (s *Source) AcceptPlain(ctx context.Context, conn net.Conn, allowed ...Role) (Identity, error) {
	tc := tls.Server(conn, s.serverConfig(conn.RemoteAddr().String(), allowed))
	id, err := exchange(ctx, conn, tc, func() error {
		if err := expect(tc, recordSwitch); err != nil {
			return fmt.Errorf("waiting for SWITCH: %w", err)
		}
		if _, err := tc.Write(recordSwitchOK); err != nil {
			return err
		}
		// Only now may the caller write: the client has taken SWITCH-OK out of TLS and reads plain bytes.
		return expect(conn, plainMark)
	})
	if err != nil {
		return Identity{}, fmt.Errorf("accept from %s: %w", conn.RemoteAddr(), err)
	}
	return id, nil
}

// exchange runs the handshake and the switch within ctx, and closes conn on any failure.
func exchange(ctx context.Context, conn net.Conn, tc *tls.Conn, leave func() error) (Identity, error) {
	// A deadline in the past ends blocked reads and writes when ctx ends.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := tc.HandshakeContext(ctx)
	if err == nil {
		err = leave()
	}
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(context.Cause(ctx), err)
		}
		_ = conn.Close()
		return Identity{}, err
	}
	return PeerIdentity(tc.ConnectionState())
}

func expect(r io.Reader, want []byte) error {
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("it sent %q instead of %q", got, want)
	}
	return nil
}
