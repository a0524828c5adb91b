package meta

import (
	"errors"
	"io"
	"net"
	"testing"
)

// pair is both ends of a TCP connection.
func pair(t *testing.T) (client, server net.Conn, port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if client, err = net.Dial("tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server, ln.Addr().(*net.TCPAddr).Port
}

func TestOnlyConnectionsOfThePortsAreBroken(t *testing.T) {
	client, _, port := pair(t)
	other, far, _ := pair(t)
	n, err := breakConnections(map[int]bool{port: true})
	if err != nil || n != 2 {
		t.Fatalf("%d ends broken, %v; want both of one connection", n, err)
	}
	if _, err := client.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("a broken connection reads: %v", err)
	}
	if _, err := far.Write([]byte("x")); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(other, make([]byte, 1)); err != nil {
		t.Errorf("another connection: %v", err)
	}
	if n, _ := breakConnections(map[int]bool{port: true}); n != 0 {
		t.Errorf("%d are broken again", n)
	}
}
