package profiling

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestProfilesAreServedToTheOwnerOfTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	// A process that was killed left its socket behind.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Serve(t.Context(), path, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", fi, err)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	r, err := c.Get("http://daemon/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || !strings.Contains(string(b), "TestProfilesAreServed") {
		t.Errorf("%v: %.200s", err, b)
	}
}

// A recording is on from the first request until the last one is answered.
func TestRecordingsEndWithTheirLastRequest(t *testing.T) {
	var changes []bool
	enter, leave := make(chan struct{}), make(chan struct{})
	h := recorded(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { enter <- struct{}{}; <-leave }), func(on bool) { changes = append(changes, on) })
	done := make(chan struct{}, 2)
	for range 2 {
		go func() { h.ServeHTTP(nil, nil); done <- struct{}{} }()
		<-enter
	}
	leave <- struct{}{}
	<-done
	if len(changes) != 1 || !changes[0] {
		t.Fatalf("changes with one request left: %v", changes)
	}
	leave <- struct{}{}
	<-done
	if len(changes) != 2 || changes[1] {
		t.Fatalf("changes in the end: %v", changes)
	}
}
