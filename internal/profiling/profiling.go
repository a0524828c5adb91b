// Package profiling serves a daemon's profiles (net/http/pprof) on a Unix socket: who may open the socket may look, nobody on the network.
package profiling

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime"
	"sync"
	"time"
)

const (
	// blockNanos is how long blocking lasts of which on average one event is recorded.
	blockNanos = 10_000
	// mutexOneOf is of how many contentions one is recorded.
	mutexOneOf = 10
)

func rate(on bool, n int) int {
	if on {
		return n
	}
	return 0
}

// recorded switches a recording on while requests for it are served.
func recorded(h http.Handler, set func(on bool)) http.Handler {
	var mu sync.Mutex
	asking := 0
	count := func(d int) {
		mu.Lock()
		defer mu.Unlock()
		before := asking
		if asking += d; before == 0 || asking == 0 {
			set(asking > 0)
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		count(1)
		defer count(-1)
		h.ServeHTTP(w, r)
	})
}

// Serve serves the profiles at the socket path until ctx ends. A socket left there by an earlier process is replaced. An empty path
// serves nothing. It returns when the socket listens.
func Serve(ctx context.Context, path string, log *slog.Logger) error {
	if path == "" {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("serve profiles: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("serve profiles: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return errors.Join(fmt.Errorf("serve profiles: %w", err), l.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	// Blocking and contention are recorded while somebody asks for them, with ?seconds=N; at other times they would cost every lock.
	mux.Handle("/debug/pprof/block", recorded(pprof.Handler("block"), func(on bool) { runtime.SetBlockProfileRate(rate(on, blockNanos)) }))
	mux.Handle("/debug/pprof/mutex", recorded(pprof.Handler("mutex"), func(on bool) { runtime.SetMutexProfileFraction(rate(on, mutexOneOf)) }))
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	context.AfterFunc(ctx, func() { _ = s.Close() })
	go func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Warn("serving profiles ended", "socket", path, "error", err)
		}
	}()
	return nil
}
