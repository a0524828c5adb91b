package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-lib-utils/protosanitizer"
	"google.golang.org/grpc"

	"github.com/iomesh/iomesh/csi/code"
)

// messageBytesMax bounds requests. CSI's own limits are far below.
const messageBytesMax = 4 << 20

// Server is a gRPC server for CSI services.
type Server struct {
	*grpc.Server
	calls *callMetrics
}

// New makes a server.
func New(log *slog.Logger) Server {
	g := &gate{busy: map[string]string{}}
	calls := newCallMetrics()
	return Server{grpc.NewServer(
		grpc.MaxRecvMsgSize(messageBytesMax),
		grpc.ChainUnaryInterceptor(calls.observe, logCalls(log), g.admit),
	), calls}
}

// socketPathMax is the longest path of a unix socket (unix(7)).
const socketPathMax = 107

// Listen makes a unix socket at path, replacing one that an earlier process left. Our user and group can connect: the sidecars of a
// pod without root share a group.
func Listen(path string) (net.Listener, error) {
	path = strings.TrimPrefix(path, "unix://")
	if len(path) > socketPathMax {
		return nil, fmt.Errorf("listen on %s: the path of a socket can have %d bytes, this has %d", path, socketPathMax, len(path))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if info, err := os.Lstat(path); err == nil {
		if info.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("listen on %s: the path exists and is no socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("listen on %s: %w", path, err)
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close())
	}
	return l, nil
}

// logCalls turns errors into statuses and logs calls that change something.
func logCalls(log *slog.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
		start := time.Now()
		method := info.FullMethod[strings.LastIndexByte(info.FullMethod, '/')+1:]
		defer func() {
			if p := recover(); p != nil {
				// A broken invariant of ours in one call must not take the other volumes' calls down with it (I12).
				log.Error("panic in a call", "method", method, "panic", p, "stack", string(debug.Stack()))
				resp, err = nil, code.Status(code.New(code.Internal, "%s: internal error, see the driver's log", method))
			}
		}()
		resp, err = next(ctx, req)
		err = code.Status(err)
		switch {
		case err != nil:
			log.Warn("call failed", "method", method, "request", protosanitizer.StripSecrets(req), "error", err, "took", time.Since(start))
		case keyOf(req) != "":
			log.Info("call done", "method", method, "key", keyOf(req), "took", time.Since(start))
		default:
			log.Debug("call done", "method", method, "took", time.Since(start))
		}
		return resp, err
	}
}

// gate admits one changing call per object at a time.
type gate struct {
	mu   sync.Mutex
	busy map[string]string // key to method
}

func (g *gate) admit(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	key := keyOf(req)
	if key == "" {
		return next(ctx, req)
	}
	g.mu.Lock()
	other, busy := g.busy[key]
	if !busy {
		g.busy[key] = info.FullMethod
	}
	g.mu.Unlock()
	if busy {
		return nil, code.New(code.Busy, "%s is already being worked on by %s; repeat the call later", key, other[strings.LastIndexByte(other, '/')+1:])
	}
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.busy, key)
	}()
	return next(ctx, req)
}

// keyOf names what a call changes, "" for calls that change nothing. An empty identifier is left to the call's own check.
func keyOf(req any) string {
	var kind, id string
	switch r := req.(type) {
	case *csipb.CreateVolumeRequest:
		kind, id = "volume name", r.GetName()
	case *csipb.CreateSnapshotRequest:
		kind, id = "snapshot name", r.GetName()
	case *csipb.DeleteSnapshotRequest:
		kind, id = "snapshot", r.GetSnapshotId()
	case *csipb.DeleteVolumeRequest:
		kind, id = "volume", r.GetVolumeId()
	case *csipb.ControllerPublishVolumeRequest:
		// By node too: the nodes of a shared volume do not wait for each other.
		kind, id = "volume on "+r.GetNodeId(), r.GetVolumeId()
	case *csipb.ControllerUnpublishVolumeRequest:
		kind, id = "volume on "+r.GetNodeId(), r.GetVolumeId()
	case *csipb.ControllerExpandVolumeRequest:
		kind, id = "size of volume", r.GetVolumeId()
	case *csipb.NodeStageVolumeRequest:
		kind, id = "volume", r.GetVolumeId()
	case *csipb.NodeUnstageVolumeRequest:
		kind, id = "volume", r.GetVolumeId()
	case *csipb.NodePublishVolumeRequest:
		kind, id = "volume", r.GetVolumeId()
	case *csipb.NodeUnpublishVolumeRequest:
		kind, id = "volume", r.GetVolumeId()
	case *csipb.NodeExpandVolumeRequest:
		kind, id = "volume", r.GetVolumeId()
	}
	if id == "" {
		return ""
	}
	return kind + " " + id
}
