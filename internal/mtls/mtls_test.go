package mtls

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func authority(t *testing.T, cluster string) *Authority {
	t.Helper()
	a, err := NewAuthority(cluster, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func source(t *testing.T, a *Authority, role Role) *Source {
	t.Helper()
	leaf, err := a.Issue(LeafOptions{Role: role, Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := leaf.Write(dir); err != nil {
		t.Fatal(err)
	}
	s, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// handshake runs one TLS connection over loopback with a byte each way and returns both sides' errors.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		tc := tls.Server(c, server)
		_, err = tc.Write([]byte{1})
		done <- err
	}()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, clientErr = io.ReadFull(tls.Client(c, client), make([]byte, 1))
	return <-done, clientErr
}

func TestPeersAreCheckedByRoleAndCluster(t *testing.T) {
	a := authority(t, "one")
	meta, chunk, node := source(t, a, RoleMeta), source(t, a, RoleChunk), source(t, a, RoleNode)
	stranger := source(t, authority(t, "one"), RoleChunk) // the same names, another authority

	if s, c := handshake(t, meta.ServerConfig(RoleChunk, RoleNode), chunk.ClientConfig(RoleMeta)); s != nil || c != nil {
		t.Fatalf("chunk to meta: server %v, client %v", s, c)
	}
	s, c := handshake(t, meta.ServerConfig(RoleChunk), node.ClientConfig(RoleMeta))
	var pe *PeerError
	if !errors.As(s, &pe) || pe.Actual != RoleNode || !strings.HasPrefix(pe.Address, "127.0.0.1:") || c == nil {
		t.Fatalf("a node at a server for chunks: server %v, client %v", s, c)
	}
	_, c = handshake(t, chunk.ServerConfig(RoleNode), node.ClientConfig(RoleMeta))
	if !errors.As(c, &pe) || pe.Actual != RoleChunk {
		t.Fatalf("a client that expects meta at a chunk: %v", c)
	}
	if s, c := handshake(t, meta.ServerConfig(RoleChunk), stranger.ClientConfig(RoleMeta)); s == nil || c == nil {
		t.Fatalf("a stranger's certificate was accepted: server %v, client %v", s, c)
	}
}

func TestReloadTakesNewFilesAndKeepsOldOnesIfBroken(t *testing.T) {
	a := authority(t, "one")
	s := source(t, a, RoleChunk)
	before := s.current().cert.Leaf.SerialNumber
	leaf, err := a.Issue(LeafOptions{Role: RoleNode, Validity: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.Write(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if s.Identity().Role != RoleNode || s.current().cert.Leaf.SerialNumber.Cmp(before) == 0 {
		t.Fatal("the new certificate is not in use")
	}
	if err := os.WriteFile(filepath.Join(s.Dir(), KeyFile), []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Reload(); err == nil || s.ReloadError() == nil {
		t.Fatal("a broken key was taken")
	}
	if s.Identity().Role != RoleNode {
		t.Fatal("the old certificate is gone")
	}
}

func TestAuthorityRoundTripSignsForTheSameTrust(t *testing.T) {
	a := authority(t, "one")
	kp, err := a.KeyPEM()
	if err != nil {
		t.Fatal(err)
	}
	b, err := LoadAuthority("one", a.CertPEM(), kp)
	if err != nil {
		t.Fatal(err)
	}
	if s, c := handshake(t, source(t, a, RoleMeta).ServerConfig(RoleChunk), source(t, b, RoleChunk).ClientConfig(RoleMeta)); s != nil || c != nil {
		t.Fatalf("server %v, client %v", s, c)
	}
	if _, err := a.Issue(LeafOptions{Role: "root"}); err == nil {
		t.Error("an unknown role was issued")
	}
	if _, err := NewAuthority("no/slash", time.Hour); err == nil {
		t.Error("a cluster name with a slash was accepted")
	}
}

func TestLeavingTLSLosesNoByteOnManyConnections(t *testing.T) {
	a := authority(t, "one")
	srv, cli := source(t, a, RoleChunk), source(t, a, RoleChunk)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	const conns = 50
	payload := make([]byte, 100_000)
	for i := range payload {
		payload[i] = byte(rand.Uint32())
	}
	// Both sides write at once as soon as they may, so that any read-ahead of the TLS reader would swallow plain bytes.
	talk := func(c net.Conn) error {
		werr := make(chan error, 1)
		go func() { _, err := c.Write(payload); werr <- err }()
		got := make([]byte, len(payload))
		if _, err := io.ReadFull(c, got); err != nil {
			return fmt.Errorf("read plain: %w", err)
		}
		if !bytes.Equal(got, payload) {
			return errors.New("bytes differ")
		}
		return <-werr
	}
	var wg sync.WaitGroup
	errs := make(chan error, 2*conns)
	wg.Go(func() {
		for range conns {
			c, err := ln.Accept()
			if err != nil {
				errs <- err
				return
			}
			wg.Go(func() {
				defer c.Close()
				id, err := srv.AcceptPlain(t.Context(), c, RoleChunk)
				if err == nil && id.Role != RoleChunk {
					err = fmt.Errorf("role %q", id.Role)
				}
				if err == nil {
					err = talk(c)
				}
				errs <- err
			})
		}
	})
	for range conns {
		wg.Go(func() {
			c, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				errs <- err
				return
			}
			defer c.Close()
			if _, err = cli.ConnectPlain(t.Context(), c, RoleChunk); err == nil {
				err = talk(c)
			}
			errs <- err
		})
	}
	wg.Wait()
	ln.Close()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestLeavingTLSWithTheWrongRoleFailsOnBothSides(t *testing.T) {
	a := authority(t, "one")
	srv, cli := source(t, a, RoleChunk), source(t, a, RoleNode)
	s, c := pair(t)
	done := make(chan error, 1)
	go func() { _, err := srv.AcceptPlain(t.Context(), s, RoleChunk); done <- err }()
	_, cerr := cli.ConnectPlain(t.Context(), c, RoleChunk)
	serr := <-done
	var pe *PeerError
	if !errors.As(serr, &pe) || pe.Actual != RoleNode {
		t.Errorf("server: %v", serr)
	}
	if cerr == nil {
		t.Error("the client was let in")
	}
}

func TestSilentPeerEndsWithTheContext(t *testing.T) {
	srv := source(t, authority(t, "one"), RoleChunk)
	s, c := pair(t)
	defer c.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := srv.AcceptPlain(ctx, s, RoleChunk); done <- err }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func pair(t *testing.T) (server, client net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return server, client
}
