// Package redirect is the login redirector of every node: initiators know one address that never changes, 127.0.0.1:3260, and are sent
// on to the owner of their volume (RFC 7143 §6.3.5, login status 0101h). A session thereby survives the restart of the node's chunk.
//
// It speaks the login phase only, with the code of storaged/target: as much as it takes to learn the target's name. While the volume has no
// owner the login is parked. Discovery sessions are served; SendTargets names the address asked. It holds no data and no
// secrets: the owner authenticates.
//
// The last answer for each target is kept. When the Locator fails, because the metadata cannot be reached, that answer is given: the
// old owner serves, or knows better, or refuses the connection, after which the initiator asks again.
package redirect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/iomesh/iomesh/storaged/target"
)

// Locator knows who owns a volume.
type Locator interface {
	// Locate returns the portal (host:port) of the owner of login.Target. While there is none it blocks, up to the end of ctx. It returns
	// target.ErrNoTarget and target.ErrNotGranted where these are certain; any other error is a passing one.
	Locate(ctx context.Context, login target.Login) (portal string, err error)
	// Targets lists the IQNs granted to login.Initiator.
	Targets(ctx context.Context, login target.Login) ([]string, error)
}

// Options configure a Server. Locator is required.
type Options struct {
	Locator Locator
	Log     *slog.Logger
	// CachedMax bounds the answers kept (10,000).
	CachedMax int
	// ConnectionsMax, LoginTimeout and ParkTimeout are those of target.Options.
	ConnectionsMax            int
	LoginTimeout, ParkTimeout time.Duration
}

// Server redirects logins. All methods may be called concurrently.
type Server struct {
	srv *target.Server
	dir *directory
}

// New returns a Server without listeners.
func New(o Options) (*Server, error) {
	if o.Locator == nil {
		return nil, errors.New("login redirector: no Locator")
	}
	if o.CachedMax <= 0 {
		o.CachedMax = 10000
	}
	dir := &directory{locator: o.Locator, max: o.CachedMax, known: map[string]string{}}
	srv, err := target.New(target.Options{
		Directory: dir,
		Log:       o.Log, ConnectionsMax: o.ConnectionsMax, LoginTimeout: o.LoginTimeout, ParkTimeout: o.ParkTimeout,
	})
	if err != nil {
		return nil, err
	}
	return &Server{srv: srv, dir: dir}, nil
}

// Serve accepts connections of a listener until it fails or the Server is closed (target.ErrClosed). It closes the listener.
func (s *Server) Serve(l net.Listener) error { return s.srv.Serve(l) }

// Close ends all connections and returns when no goroutine is left.
func (s *Server) Close() error { return s.srv.Close() }

// Totals returns connection and login counts.
func (s *Server) Totals() target.Totals { return s.srv.Totals() }

// directory makes a target.Directory of a Locator: everything is elsewhere.
type directory struct {
	locator Locator
	max     int

	mu    sync.Mutex
	known map[string]string // target to portal
}

// Lookup implements target.Directory. While the Locator has no certain answer and there is none from before, the login waits: initiators take
// a connection that is closed during login for a failure, some for a final one.
func (d *directory) Lookup(ctx context.Context, login target.Login) (target.Placement, error) {
	for {
		place, err := d.lookup(ctx, login)
		if err == nil || errors.Is(err, target.ErrNoTarget) || errors.Is(err, target.ErrNotGranted) {
			return place, err
		}
		select {
		case <-ctx.Done():
			return place, err
		case <-time.After(againAfter):
		}
	}
}

// againAfter is the pause between two questions about one login.
const againAfter = 100 * time.Millisecond

func (d *directory) lookup(ctx context.Context, login target.Login) (target.Placement, error) {
	portal, err := d.locator.Locate(ctx, login)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case errors.Is(err, target.ErrNoTarget):
		delete(d.known, login.Target)
		return target.Placement{}, err
	case errors.Is(err, target.ErrNotGranted):
		return target.Placement{}, err
	case err != nil:
		if last := d.known[login.Target]; last != "" && ctx.Err() == nil {
			return target.Placement{Redirect: last}, nil
		}
		return target.Placement{}, fmt.Errorf("locate %s: %w", login.Target, err)
	case portal == "":
		return target.Placement{}, fmt.Errorf("locate %s: empty portal", login.Target)
	}
	if _, there := d.known[login.Target]; !there && len(d.known) >= d.max {
		for k := range d.known { // any: they are only of use in a failure
			delete(d.known, k)
			break
		}
	}
	d.known[login.Target] = portal
	return target.Placement{Redirect: portal}, nil
}

// Targets implements target.Directory.
func (d *directory) Targets(ctx context.Context, login target.Login) ([]string, error) {
	return d.locator.Targets(ctx, login)
}
