package ctl

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/internal/rpc"
)

// exportTries is how often an export goes on at another owner without a byte of progress in between.
const exportTries = 30

type exportView struct {
	head
	Volume    string `json:"volume"`
	Snapshot  string `json:"snapshot"`
	File      string `json:"file"`
	SizeBytes uint64 `json:"sizeBytes"`
	SHA256    string `json:"sha256"`
}

func (a *app) volumeExport() *cobra.Command {
	var snapshot, file string
	cmd := &cobra.Command{
		Use:   "export VOLUME [--snapshot SNAPSHOT] -f FILE|-",
		Short: "Write the content of a volume or snapshot to a file or to standard output",
		Long: `Write the content of a volume or snapshot to a file or to standard output, as a raw image.

Without --snapshot one is taken, exported, and deleted again, so that the image is of one moment. Every block is verified on the way, and read from
another replica if one is bad. A file must not exist; where the volume is zero it gets holes. The time-out (--timeout) does not count here.`,
		Args: exactly(1),
	}
	cmd.Flags().StringVar(&snapshot, "snapshot", "", "name or id of a snapshot of the volume")
	cmd.Flags().StringVarP(&file, "file", "f", "", `file to write, or "-" for standard output`)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if file == "" {
			return usage("export volume %s: --file is missing: name a file, or - for standard output", args[0])
		}
		cl, err := a.connect()
		if err != nil {
			return err
		}
		defer cl.close()
		cl.choose(cmd.Context())
		x := &export{cl: cl, vc: storagedv1.NewVolumesClient(cl), cc: storagedv1.NewClusterClient(cl), file: file, stdout: cmd.OutOrStdout()}
		view, err := x.run(cmd.Context(), args[0], snapshot)
		if err != nil {
			var own *Error
			if errors.As(err, &own) {
				return err
			}
			return explain("export volume "+args[0], cl.addresses, err)
		}
		out := cmd.OutOrStdout()
		if file == "-" {
			out = cmd.ErrOrStderr()
		}
		return a.print(out, view, func(w io.Writer) {
			fmt.Fprintf(w, "%s of volume %s (snapshot %s) written to %s\nsha256 %s\n", bytesText(view.SizeBytes), view.Volume, view.Snapshot, view.File, view.SHA256)
		})
	}
	return cmd
}

// export is one run of the command.
type export struct {
	cl     *client
	vc     storagedv1.VolumesClient
	cc     storagedv1.ClusterClient
	file   string
	stdout io.Writer
}

func (x *export) run(ctx context.Context, ref, snapshot string) (*exportView, error) {
	v, err := find(ctx, x.vc, ref, false)
	if err != nil {
		return nil, err
	}
	var sn *storagedv1.Snapshot
	if snapshot != "" {
		if sn, err = findSnapshot(ctx, x.vc, snapshotRef(v, snapshot)); err != nil {
			return nil, err
		}
		if sn.GetVolumeId() != v.GetId() {
			return nil, usage("export volume %s: snapshot %s is of another volume", ref, snapshot)
		}
	} else {
		name := fmt.Sprintf("export-%d", time.Now().UnixNano())
		if sn, err = x.vc.CreateSnapshot(ctx, &storagedv1.CreateSnapshotRequest{VolumeId: v.GetId(), Name: name}); err != nil {
			return nil, err
		}
		defer func() {
			// Also when the command was interrupted: nobody else would remove it.
			dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
			defer cancel()
			_, _ = x.vc.DeleteSnapshot(dctx, &storagedv1.DeleteSnapshotRequest{Id: sn.GetId()})
		}()
	}
	s, err := newImage(x.file, x.stdout)
	if err != nil {
		return nil, err
	}
	defer s.abandon()
	if err := x.copy(ctx, v.GetId(), sn, s); err != nil {
		return nil, err
	}
	if err := s.finish(sn.GetSizeBytes()); err != nil {
		return nil, err
	}
	return &exportView{head: kind("VolumeExport"), Volume: v.GetName(), Snapshot: sn.GetName(), File: x.file, SizeBytes: sn.GetSizeBytes(), SHA256: hex.EncodeToString(s.sum.Sum(nil))}, nil
}

// snapshotRef names a snapshot of the volume by its name; an id is taken as it is.
func snapshotRef(v *storagedv1.Volume, s string) string {
	if len(s) == 36 {
		return s
	}
	return v.GetId() + "/" + s
}

// copy reads from whoever owns the volume; when that changes, it goes on at the new owner where it was.
func (x *export) copy(ctx context.Context, id string, sn *storagedv1.Snapshot, s *image) error {
	var last error
	for tries := 0; tries < exportTries; tries++ {
		before := s.at
		done, err := x.read(ctx, id, sn, s)
		if done || err != nil && !again(err) {
			return err
		}
		if last = err; s.at > before {
			tries = 0
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
	return last
}

// again reports whether another owner, or the same one later, may do.
func again(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.FailedPrecondition, codes.Aborted:
		return true
	}
	return false
}

func (x *export) read(ctx context.Context, id string, sn *storagedv1.Snapshot, s *image) (done bool, err error) {
	v, err := x.vc.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: id})
	if err != nil {
		return false, err
	}
	nodes, err := x.cc.ListNodes(ctx, &storagedv1.ListNodesRequest{})
	if err != nil {
		return false, err
	}
	address := ""
	for _, n := range nodes.GetNodes() {
		if n.GetChunk() == v.GetOwnerChunk() {
			address = n.GetControlAddress()
		}
	}
	if address == "" {
		return false, status.Errorf(codes.Unavailable, "volume %s has no owner now", v.GetName())
	}
	var creds credentials.TransportCredentials = insecure.NewCredentials()
	if x.cl.tls != nil {
		creds = x.cl.tls.ClientCredentials(mtls.RoleChunk)
	}
	cc, err := rpc.Connect(address, rpc.Options{Credentials: creds})
	if err != nil {
		return false, err
	}
	defer cc.Close()
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := storagedv1.NewChunkControlClient(cc).ReadView(sctx, &storagedv1.ReadViewRequest{VolumeId: id, SnapSeq: sn.GetSnapSeq(), OffsetBytes: s.at, LengthBytes: sn.GetSizeBytes() - s.at})
	if err != nil {
		return false, err
	}
	for s.at < sn.GetSizeBytes() {
		m, err := st.Recv()
		if errors.Is(err, io.EOF) {
			return false, status.Error(codes.Unavailable, "the stream ended early")
		}
		if err != nil {
			return false, err
		}
		if m.GetOffsetBytes() != s.at {
			return false, fmt.Errorf("node at %s sent byte %d where byte %d follows", address, m.GetOffsetBytes(), s.at)
		}
		if err := s.write(m); err != nil {
			return false, err
		}
	}
	return true, nil
}

// image is where an export goes. A file has its name once it is complete and durable.
type image struct {
	w    io.Writer
	f    *os.File // nil for standard output
	path string
	at   uint64
	sum  hash.Hash
	done bool
}

func newImage(path string, stdout io.Writer) (*image, error) {
	s := &image{path: path, w: stdout, sum: sha256.New()}
	if path == "-" {
		return s, nil
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, usage("export: %s exists; name a file that does not", path)
	}
	f, err := os.OpenFile(path+".part", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, &Error{code: exitFailed, err: err, msg: fmt.Sprintf("export: %v; choose a directory you may write to", err)}
	}
	s.f, s.w = f, f
	return s, nil
}

var zeroPiece [1 << 20]byte

func (s *image) write(m *storagedv1.ReadViewResponse) error {
	if !m.GetZero() {
		n, err := s.w.Write(m.GetData())
		s.at += uint64(n)
		s.sum.Write(m.GetData()[:n])
		if err != nil {
			return fmt.Errorf("write %s: %w", s.path, err)
		}
		return nil
	}
	for left := m.GetZeroBytes(); left > 0; {
		n := min(left, uint64(len(zeroPiece)))
		s.sum.Write(zeroPiece[:n])
		if s.f == nil {
			if _, err := s.w.Write(zeroPiece[:n]); err != nil {
				return fmt.Errorf("write %s: %w", s.path, err)
			}
		}
		left -= n
	}
	s.at += m.GetZeroBytes()
	if s.f != nil {
		// A hole.
		if _, err := s.f.Seek(int64(s.at), io.SeekStart); err != nil {
			return fmt.Errorf("write %s: %w", s.path, err)
		}
	}
	return nil
}

func (s *image) finish(sizeBytes uint64) error {
	if s.f == nil {
		return nil
	}
	err := s.f.Truncate(int64(sizeBytes))
	if err == nil {
		err = s.f.Sync()
	}
	if err == nil {
		err = os.Rename(s.f.Name(), s.path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(s.path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	s.done = true
	return nil
}

// abandon removes what is not complete.
func (s *image) abandon() {
	if s.f != nil {
		_ = s.f.Close()
		if !s.done {
			_ = os.Remove(s.f.Name())
		}
	}
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
