package ctl

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/mtls"
)

func (a *app) metaCommand() *cobra.Command {
	backup := &cobra.Command{
		Use:   "backup FILE",
		Short: "Write a snapshot of all metadata to a file",
		Long: `Write a snapshot of all metadata to a file, from a member that is not the leader if there is one.

The file is an etcd snapshot: it is checked while it is written, and etcdutl reads it. It holds CHAP secrets; keep it like a key. It must not
exist yet.`,
		Args: exactly(1),
	}
	backup.RunE = func(cmd *cobra.Command, args []string) error {
		cl, err := a.connect()
		if err != nil {
			return err
		}
		defer cl.close()
		ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
		defer cancel()
		b, err := cl.backup(ctx, args[0])
		if err != nil {
			var own *Error
			if errors.As(err, &own) {
				return err
			}
			return explain("back up the metadata to "+args[0], cl.addresses, err)
		}
		return a.print(cmd.OutOrStdout(), b, func(w io.Writer) {
			fmt.Fprintf(w, "%s of metadata written to %s, from member %s\n", bytesText(b.SizeBytes), b.File, b.Member)
		})
	}
	return group("meta", "Look after the metadata", backup)
}

type backupView struct {
	head
	File      string    `json:"file"`
	SizeBytes uint64    `json:"sizeBytes"`
	Member    string    `json:"member"`
	Taken     time.Time `json:"taken"`
}

// backup streams a snapshot to path, which is complete and flushed once it has its name.
func (c *client) backup(ctx context.Context, path string) (*backupView, error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return nil, usage("back up the metadata: %s exists; name a file that does not", path)
	}
	member, err := c.source(ctx)
	if err != nil {
		return nil, err
	}
	cfg := clientv3.Config{Endpoints: []string{member.GetClientUrl()}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()}
	if c.tls != nil {
		cfg.TLS = c.tls.ClientConfig(mtls.RoleMeta)
	}
	cli, err := clientv3.New(cfg)
	if err != nil {
		return nil, err
	}
	defer cli.Close()
	r, err := cli.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := os.OpenFile(path+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, &Error{code: exitFailed, err: err, msg: fmt.Sprintf("back up the metadata: %v; choose a directory you may write to", err)}
	}
	defer os.Remove(f.Name())
	defer f.Close()
	n, err := copyChecked(f, r)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, fmt.Errorf("from member %s: %w", member.GetName(), err)
	}
	return &backupView{head: kind("MetaBackup"), File: path, SizeBytes: uint64(n), Member: member.GetName(), Taken: time.Now().UTC()}, nil
}

// source chooses the member to read from: one that sees a leader, rather not the leader itself.
func (c *client) source(ctx context.Context) (*storagedv1.ProbeResponse, error) {
	var best *storagedv1.ProbeResponse
	var last error
	for _, cc := range c.conns {
		p, err := storagedv1.NewMetaPeerClient(cc).Probe(ctx, &storagedv1.ProbeRequest{})
		switch {
		case err != nil:
			last = err
		case p.GetLeaderId() == 0:
			last = fmt.Errorf("member %s sees no leader", p.GetName())
		case best == nil || best.GetLeaderId() == best.GetMemberId():
			best = p
		}
	}
	if best == nil {
		return nil, last
	}
	return best, nil
}

// copyChecked copies a snapshot and compares the SHA-256 that ends it.
func copyChecked(w io.Writer, r io.Reader) (int64, error) {
	h := sha256.New()
	var tail []byte // the last bytes read, not hashed yet: they may be the sum
	buf := make([]byte, 64<<10)
	var n int64
	for {
		m, err := r.Read(buf)
		if m > 0 {
			if _, werr := w.Write(buf[:m]); werr != nil {
				return n, werr
			}
			n += int64(m)
			tail = append(tail, buf[:m]...)
			if len(tail) > sha256.Size {
				h.Write(tail[:len(tail)-sha256.Size])
				tail = append(tail[:0], tail[len(tail)-sha256.Size:]...)
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return n, err
		}
	}
	if !bytes.Equal(h.Sum(nil), tail) {
		return n, errors.New("the snapshot is not whole: its checksum differs")
	}
	return n, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
