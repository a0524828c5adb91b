package floor

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestAWriteIsAcknowledgedWhenAllThreeJournalsHaveIt(t *testing.T) {
	dir := t.TempDir()
	if f, err := os.OpenFile(filepath.Join(dir, "probe"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		t.Fatal(err)
	} else {
		f.Close()
	}
	var addrs []string
	ended := make(chan error, 3)
	for _, name := range []string{"r1", "r2", "p"} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		var replicas []string
		if name == "p" {
			replicas = append(replicas, addrs...)
		}
		addrs = append(addrs, l.Addr().String())
		go func() { ended <- Serve(l, filepath.Join(dir, name), replicas) }()
	}
	c, err := Dial(t.Context(), addrs[2])
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Run(t.Context(), 8, 100*time.Millisecond)
	if err != nil || r.Requests < 8 {
		t.Fatalf("%v: %v", r, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	// The primary ends with its client; what it had acknowledged is in each journal.
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, name := range []string{"r1", "r2", "p"} {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || len(b) != journalBlocks*blockBytes {
			t.Errorf("journal %s: %d bytes, %v", name, len(b), err)
		}
	}
}
