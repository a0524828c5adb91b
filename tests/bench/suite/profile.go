package suite

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// profiler is a subject whose processes serve their profiles at Unix sockets, by name.
type profiler interface{ profileSockets() map[string]string }

func (c *cluster) profileSockets() map[string]string {
	m := map[string]string{}
	for name := range c.pids {
		if strings.HasPrefix(name, "chunk-") {
			m[name] = filepath.Join(c.dir, "logs", name+".pprof")
		}
	}
	return m
}

// profileKinds are what is taken: CPU time, allocations, where goroutines wait, and for which locks.
var profileKinds = []struct{ name, path string }{{"cpu", "profile"}, {"allocs", "allocs"}, {"block", "block"}, {"mutex", "mutex"}}

// profile takes profiles of the subject's processes while a run lasts. The function it returns waits for them.
func (r *Runner) profile(ctx context.Context, s Subject, name string) func() error {
	p, ok := s.(profiler)
	if !ok || r.ProfileDir == "" {
		return func() error { return nil }
	}
	r.runs++
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for chunk, socket := range p.profileSockets() {
		for _, k := range profileKinds {
			file := filepath.Join(r.ProfileDir, fmt.Sprintf("%s-%s-%d.%s.pprof", strings.NewReplacer(" ", "", "/", "-", ",", "-").Replace(name), chunk, r.runs, k.name))
			wg.Go(func() {
				err := fetch(ctx, socket, fmt.Sprintf("http://daemon/debug/pprof/%s?seconds=%d", k.path, max(1, int(r.Duration.Seconds()))), file)
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			})
		}
	}
	return func() error {
		wg.Wait()
		return errors.Join(errs...)
	}
}

func fetch(ctx context.Context, socket, url, file string) error {
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	resp, err := c.Do(req)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("profile of %s: %s", socket, resp.Status)
	}
	f, err := os.Create(file)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	_, err = io.Copy(f, resp.Body)
	return errors.Join(err, f.Close())
}
