package metadb

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

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrDamagedSnapshot: a snapshot does not end in the checksum of what comes before.
var ErrDamagedSnapshot = errors.New("the snapshot is not whole: its checksum differs")

// Backup writes a snapshot of all metadata to path, which must not exist. The file has its name once it is complete, verified and
// durable. It holds CHAP secrets; its mode is 0600.
func (d *DB) Backup(ctx context.Context, path string) (sizeBytes int64, err error) {
	return Backup(ctx, d.cli, path)
}

// Backup is DB.Backup through a client of the caller's.
func Backup(ctx context.Context, cli *clientv3.Client, path string) (sizeBytes int64, err error) {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("back up the metadata: %s: %w", path, fs.ErrExist)
	}
	r, err := cli.Snapshot(ctx)
	if err != nil {
		return 0, fmt.Errorf("back up the metadata: %w", err)
	}
	defer r.Close()
	f, err := os.OpenFile(path+".part", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, fmt.Errorf("back up the metadata: %w", err)
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
		return n, fmt.Errorf("back up the metadata to %s: %w", path, err)
	}
	return n, nil
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
		return n, ErrDamagedSnapshot
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
