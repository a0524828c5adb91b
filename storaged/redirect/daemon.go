package redirect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/iomesh/iomesh/internal/metrics"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/target"
)

// DaemonOptions configure Run. All fields but Log and the last two are required.
type DaemonOptions struct {
	// Listen is the host:port initiators log in at.
	Listen string
	// Meta are the gRPC addresses of the meta members.
	Meta []string
	// TLSDir holds credentials of role node.
	TLSDir string
	// MetricsListen is the host:port of /metrics and /healthz; "" or "off": none.
	MetricsListen string
	Log           *slog.Logger
	// ListenOn and Dial take the place of TCP, in simulations.
	ListenOn func(address string) (net.Listener, error)
	Dial     func(ctx context.Context, address string) (net.Conn, error)
}

// Run redirects logins until ctx ends.
func Run(ctx context.Context, o DaemonOptions) error {
	if len(o.Meta) == 0 {
		return errors.New("login redirector: no meta addresses given")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	src, err := mtls.Load(o.TLSDir)
	if err != nil {
		return fmt.Errorf("login redirector: %w", err)
	}
	loc, err := newMetaLocator(o.Meta, src, o.Dial)
	if err != nil {
		return err
	}
	defer loc.close()
	srv, err := New(Options{Locator: loc, Log: o.Log})
	if err != nil {
		return err
	}
	if o.ListenOn == nil {
		o.ListenOn = func(address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	ln, err := o.ListenOn(o.Listen)
	if err != nil {
		return fmt.Errorf("listen for logins on %s: %w", o.Listen, err)
	}
	o.Log.Info("redirecting logins", "listen", ln.Addr().String(), "meta", o.Meta)
	ctx, cancel := context.WithCancel(ctx)
	scraped, err := metrics.Start(ctx, o.MetricsListen, metrics.Handler(srv.registry(loc, src), nil), o.Log)
	if err != nil {
		cancel()
		_ = ln.Close()
		return fmt.Errorf("login redirector: %w", err)
	}
	defer scraped()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); err != nil && !errors.Is(err, target.ErrClosed) {
		return err
	}
	return srv.Close()
}
