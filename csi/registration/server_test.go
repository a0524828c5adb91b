package registration

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registerv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

func TestKubeletFindsTheDriverAndTellsHowItWent(t *testing.T) {
	dir, err := os.MkdirTemp("", "reg") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := Socket(dir, "com.iomesh.csi-driver")
	if socket != filepath.Join(dir, "plugins_registry/com.iomesh.csi-driver-reg.sock") {
		t.Fatalf("socket %s", socket)
	}
	s := &Server{Name: "com.iomesh.csi-driver", Endpoint: dir + "/plugins/com.iomesh.csi-driver/csi.sock", Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, socket) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := registerv1.NewRegistrationClient(conn)
	info, err := c.GetInfo(ctx, &registerv1.InfoRequest{}, grpc.WaitForReady(true))
	if err != nil || info.Type != "CSIPlugin" || info.Name != "com.iomesh.csi-driver" || info.Endpoint != s.Endpoint || len(info.SupportedVersions) != 1 {
		t.Errorf("info %v, %v", info, err)
	}
	for _, st := range []*registerv1.RegistrationStatus{{Error: "NodeGetInfo: no meta member"}, {PluginRegistered: true}} {
		if _, err := c.NotifyRegistrationStatus(t.Context(), st); err != nil {
			t.Fatal(err)
		}
		if ok, text := s.Registered(); ok != st.PluginRegistered || text != st.Error {
			t.Errorf("registered %t %q, kubelet said %v", ok, text, st)
		}
	}
	conn.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}
