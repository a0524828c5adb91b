// Package health serves /healthz: 200 while the plugin's own Probe answers ready on its socket, as the sidecar livenessprobe would; and
// /metrics beside it.
package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// probeTimeout bounds one probe. The socket is local.
const probeTimeout = 5 * time.Second

// Serve answers on address until ctx ends. socket is the plugin's CSI socket, scraped what is served as /metrics.
func Serve(ctx context.Context, address, socket string, scraped http.Handler) error {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	defer conn.Close()
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("health: listen on %s: %w", address, err)
	}
	srv := &http.Server{Handler: Handler(csipb.NewIdentityClient(conn), scraped), ReadHeaderTimeout: probeTimeout}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("health: %w", err)
	}
	return nil
}

// Handler answers /healthz by probing c, and /metrics by scraped.
func Handler(c csipb.IdentityClient, scraped http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", scraped)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), probeTimeout)
		defer cancel()
		resp, err := c.Probe(ctx, &csipb.ProbeRequest{})
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		case !resp.GetReady().GetValue() && resp.GetReady() != nil:
			http.Error(w, "the plugin is not ready", http.StatusServiceUnavailable)
		default:
			fmt.Fprintln(w, "ok")
		}
	})
	return mux
}
