package meta

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/csi/metatest"
)

func member(t *testing.T) (*metatest.Server, string) {
	t.Helper()
	m := metatest.New()
	g := grpc.NewServer(grpc.UnaryInterceptor(m.Interceptor))
	m.Register(g)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	return m, l.Addr().String()
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestTheEndpointsFileIsFollowedEvenIfItComesLater(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	dir := t.TempDir()
	c, err := Dial(Options{EndpointsDir: dir, Credentials: insecure.NewCredentials(), Log: slog.New(slog.DiscardHandler), Reread: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: metatest.ClusterID}); status.Code(err) != codes.Unavailable {
		t.Fatalf("without an address: %v", err)
	}
	_, address := member(t)
	write(t, dir, "meta", " , not-an-address")
	write(t, dir, "meta", "127.0.0.1:1, "+address+"\n")
	for {
		_, err := c.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: metatest.ClusterID})
		if status.Code(err) == codes.NotFound {
			break // the member answered; the dead one beside it does not matter
		}
		if ctx.Err() != nil {
			t.Fatalf("the new address is not used: %v", err)
		}
	}
	if id, err := c.ClusterID(ctx); err != nil || id != metatest.ClusterID {
		t.Errorf("cluster id from the service: %q, %v", id, err)
	}
	write(t, dir, "clusterID", "abc\n")
	if id, err := c.ClusterID(ctx); err != nil || id != "abc" {
		t.Errorf("cluster id from the file: %q, %v", id, err)
	}
}

func TestUnavailableIsRepeatedAndOtherErrorsAreNot(t *testing.T) {
	m, address := member(t)
	c, err := Dial(Options{Endpoints: []string{address}, Credentials: insecure.NewCredentials(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, tc := range []struct {
		code  codes.Code
		tries int
		want  codes.Code
	}{{codes.Unavailable, 3, codes.NotFound}, {codes.Aborted, 1, codes.Aborted}} {
		tries := 0
		m.SetFail(func(string) error {
			if tries++; tries < 3 {
				return status.Error(tc.code, "x")
			}
			return nil
		})
		_, err = c.GetVolume(t.Context(), &storagedv1.GetVolumeRequest{Id: metatest.ClusterID})
		if status.Code(err) != tc.want || tries != tc.tries {
			t.Errorf("%s: %v after %d tries, want %s after %d", tc.code, err, tries, tc.want, tc.tries)
		}
	}
}

func TestBadEndpointsAreRefused(t *testing.T) {
	for _, bad := range [][]string{nil, {"host"}, {":10100"}, {"host:"}} {
		if c, err := Dial(Options{Endpoints: bad, Credentials: insecure.NewCredentials(), Log: slog.Default()}); err == nil {
			c.Close()
			t.Errorf("%q was taken", bad)
		}
	}
}
