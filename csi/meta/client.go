package meta

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// Options of Dial.
type Options struct {
	// Endpoints are host:port of meta members. Used when EndpointsDir is "".
	Endpoints []string
	// EndpointsDir is a directory with the files `meta` (comma-separated host:port) and `clusterID`. It may be filled later: until then
	// every call is Unavailable.
	EndpointsDir string
	// Credentials of the channel.
	Credentials credentials.TransportCredentials
	Log         *slog.Logger
	// Reread is how often the directory is looked at; 0 = 2 s.
	Reread time.Duration
}

// Client is a channel to the block service. Safe for concurrent use.
type Client struct {
	storagedv1.VolumesClient
	Cluster storagedv1.ClusterClient

	conn  *grpc.ClientConn
	creds credentials.TransportCredentials
	dir   string
	log   *slog.Logger
	stop  chan struct{}
	ended sync.WaitGroup
}

const (
	fileMeta    = "meta"
	fileCluster = "clusterID"

	endpointsBytesMax = 16 << 10
	endpointsMax      = 64
)

// serviceConfig: any member serves; Unavailable is repeated for about 7 s, the time an election takes several times over.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [{}],
    "waitForReady": false,
    "retryPolicy": {"maxAttempts": 5, "initialBackoff": "0.3s", "maxBackoff": "3s", "backoffMultiplier": 2.0, "retryableStatusCodes": ["UNAVAILABLE"]}
  }]
}`

// Dial makes the channel. It connects in the background: a block service that is down is an error of the calls.
func Dial(opts Options) (*Client, error) {
	addresses := opts.Endpoints
	if opts.EndpointsDir == "" {
		if err := checkEndpoints(addresses); err != nil {
			return nil, err
		}
	} else {
		var err error
		if addresses, err = readEndpoints(opts.EndpointsDir); err != nil {
			opts.Log.Info("waiting for the list of meta members", "dir", opts.EndpointsDir, "error", err)
		}
	}
	r := manual.NewBuilderWithScheme("iomesh")
	r.InitialState(state(addresses))
	conn, err := grpc.NewClient("iomesh:///meta",
		grpc.WithResolvers(r),
		grpc.WithTransportCredentials(opts.Credentials),
		grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoffConfig, MinConnectTimeout: 3 * time.Second}),
	)
	if err != nil {
		return nil, fmt.Errorf("meta members %v: %w", addresses, err)
	}
	c := &Client{
		VolumesClient: storagedv1.NewVolumesClient(conn), Cluster: storagedv1.NewClusterClient(conn),
		conn: conn, creds: opts.Credentials, dir: opts.EndpointsDir, log: opts.Log, stop: make(chan struct{}),
	}
	if c.dir != "" {
		every := opts.Reread
		if every == 0 {
			every = 2 * time.Second
		}
		c.ended.Go(func() { c.follow(r, addresses, every) })
	}
	return c, nil
}

// follow hands changed addresses to the channel. The file is looked at instead of watched: a ConfigMap is replaced by renaming a
// symbolic link two levels up, which a watch of the file misses.
func (c *Client) follow(r *manual.Resolver, have []string, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	told := ""
	for {
		select {
		case <-c.stop:
			return
		case <-tick.C:
		}
		now, err := readEndpoints(c.dir)
		if err != nil {
			if told != err.Error() && len(have) > 0 {
				told = err.Error()
				c.log.Warn("the list of meta members cannot be read; the last one is kept", "error", err)
			}
			continue
		}
		told = ""
		if !slices.Equal(now, have) {
			c.log.Info("meta members changed", "from", have, "to", now)
			have = now
			r.UpdateState(state(now))
		}
	}
}

// Close ends the channel and its goroutine.
func (c *Client) Close() error {
	close(c.stop)
	c.ended.Wait()
	return c.conn.Close()
}

// ClusterID returns the cluster's id: from our certificate, from the endpoints directory, or from the block service.
func (c *Client) ClusterID(ctx context.Context) (string, error) {
	if creds, ok := c.creds.(interface{ ClusterID() (string, error) }); ok {
		if id, err := creds.ClusterID(); err == nil && id != "" {
			return id, nil
		}
	}
	if c.dir != "" {
		b, err := readSmall(filepath.Join(c.dir, fileCluster))
		if err == nil && strings.TrimSpace(string(b)) != "" {
			return strings.TrimSpace(string(b)), nil
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	st, err := c.Cluster.GetStatus(ctx, &storagedv1.GetStatusRequest{})
	if err != nil {
		return "", fmt.Errorf("ask for the cluster's id: %w", err)
	}
	if st.GetClusterId() == "" {
		return "", errors.New("the block service does not know its cluster's id yet")
	}
	return st.GetClusterId(), nil
}

func state(addresses []string) resolver.State {
	s := resolver.State{}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a}}})
	}
	return s
}

func readEndpoints(dir string) ([]string, error) {
	b, err := readSmall(filepath.Join(dir, fileMeta))
	if err != nil {
		return nil, fmt.Errorf("list of meta members: %w", err)
	}
	addresses := Split(string(b))
	if err := checkEndpoints(addresses); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(dir, fileMeta), err)
	}
	return addresses, nil
}

// Split cuts a comma-separated list; spaces and empty parts are dropped.
func Split(list string) []string {
	var out []string
	for _, a := range strings.Split(list, ",") {
		if a = strings.TrimSpace(a); a != "" {
			out = append(out, a)
		}
	}
	return out
}

func checkEndpoints(addresses []string) error {
	if len(addresses) == 0 || len(addresses) > endpointsMax {
		return fmt.Errorf("%d meta members: want 1 to %d of host:port, separated by commas", len(addresses), endpointsMax)
	}
	for _, a := range addresses {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" {
			return fmt.Errorf("meta member %q: want host:port", a)
		}
	}
	return nil
}

func readSmall(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > endpointsBytesMax {
		return nil, fmt.Errorf("%s has %d bytes, more than %d", path, info.Size(), endpointsBytesMax)
	}
	return os.ReadFile(path)
}
