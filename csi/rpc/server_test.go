package rpc

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/iomesh/iomesh/csi/code"
)

func TestASecondCallOnAVolumeIsAbortedAndOneOnAnotherVolumeRuns(t *testing.T) {
	g := &gate{busy: map[string]string{}}
	info := &grpc.UnaryServerInfo{FullMethod: "/csi.v1.Node/NodeStageVolume"}
	ok := func(context.Context, any) (any, error) { return nil, nil }
	_, err := g.admit(t.Context(), &csipb.NodeStageVolumeRequest{VolumeId: "a"}, info, func(ctx context.Context, _ any) (any, error) {
		if _, err := g.admit(ctx, &csipb.NodeUnpublishVolumeRequest{VolumeId: "a"}, info, ok); code.Of(err) != codes.Aborted || !strings.Contains(err.Error(), "NodeStageVolume") {
			t.Errorf("second call on the volume: %v", err)
		}
		if _, err := g.admit(ctx, &csipb.NodeStageVolumeRequest{VolumeId: "b"}, info, ok); err != nil {
			t.Errorf("call on another volume: %v", err)
		}
		return nil, errors.New("failed")
	})
	if err == nil {
		t.Fatal("the call's error is lost")
	}
	if _, err := g.admit(t.Context(), &csipb.NodeStageVolumeRequest{VolumeId: "a"}, info, ok); err != nil {
		t.Errorf("after a failed call the volume stays locked: %v", err)
	}
}

func TestLogsTellTheRequestButNoSecretAndPanicsBecomeErrors(t *testing.T) {
	var buf bytes.Buffer
	wrap := logCalls(slog.New(slog.NewTextHandler(&buf, nil)))
	req := &csipb.NodeStageVolumeRequest{VolumeId: "vol-1", Secrets: map[string]string{"password": "hunter2hunter2"}}
	info := &grpc.UnaryServerInfo{FullMethod: "/csi.v1.Node/NodeStageVolume"}
	_, err := wrap(t.Context(), req, info, func(context.Context, any) (any, error) { return nil, code.New(code.InUse, "busy") })
	if status.Code(err) != codes.FailedPrecondition {
		t.Errorf("error %v", err)
	}
	if _, err = wrap(t.Context(), req, info, func(context.Context, any) (any, error) { panic("x") }); status.Code(err) != codes.Internal {
		t.Errorf("panic became %v", err)
	}
	if !strings.Contains(buf.String(), "vol-1") || strings.Contains(buf.String(), "hunter2") {
		t.Errorf("log %s", buf.String())
	}
}

func TestListenReplacesASocketButNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sub", "csi.sock")
	l, err := Listen("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v, %v", info, err)
	}
	l2, err := Listen(path)
	if err != nil {
		t.Fatalf("a left-over socket is in the way: %v", err)
	}
	l2.Close()
	l.Close()
	os.Remove(path)
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("a file was replaced by a socket")
	}
}
