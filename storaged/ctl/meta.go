package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/storaged/metadb"
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
	return group("meta", "Look after the metadata", backup, a.memberCommand())
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
	cli, err := c.etcd(member.GetClientUrl())
	if err != nil {
		return nil, err
	}
	defer cli.Close()
	n, err := metadb.Backup(ctx, cli, path)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{code: exitFailed, err: err, msg: fmt.Sprintf("%v; choose a directory you may write to", err)}
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
