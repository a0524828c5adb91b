package suite

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/iomesh/iomesh/tests/bench/load"
)

// Backing stores of tgtd.
const (
	// CacheOff writes with pwrite and answers after fdatasync: one durable copy.
	CacheOff = "tgtd-cache-off"
	// AIO reads and writes with O_DIRECT and never flushes.
	AIO = "tgtd-aio"
)

// tgtd is one tgtd process with one unit.
type tgtd struct {
	kind string
	cmd  *exec.Cmd
	unit *unit
}

// StartTgtd starts a tgtd of a kind below dir with a unit of span bytes.
func StartTgtd(ctx context.Context, kind, dir string, control int, span uint64) (Subject, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("find a port for tgtd: %w", err)
	}
	portal := l.Addr().String()
	l.Close()
	file := filepath.Join(dir, kind+".img")
	if err := writeInFull(file, span); err != nil {
		return nil, err
	}
	t := &tgtd{kind: kind}
	if t.cmd, err = start(filepath.Join(dir, kind+".log"), "tgtd", "-f", "-C", strconv.Itoa(control), "--iscsi", "portal="+portal); err != nil {
		return nil, fmt.Errorf("%w (Debian's package tgt has it)", err)
	}
	iqn := "iqn.2016-02.com.iomesh.bench:" + kind
	if err := t.configure(ctx, control, iqn, file); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	if t.unit, err = dialUnit(ctx, []string{portal}, iqn, span); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

func (t *tgtd) configure(ctx context.Context, control int, iqn, file string) error {
	adm := func(args ...string) error {
		args = append([]string{"-C", strconv.Itoa(control), "--lld", "iscsi"}, args...)
		if out, err := exec.CommandContext(ctx, "tgtadm", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("tgtadm %v: %w: %s", args, err, out)
		}
		return nil
	}
	if err := until(ctx, 10*time.Second, "tgtd answers", func() error {
		return adm("--op", "new", "--mode", "target", "--tid", "1", "-T", iqn)
	}); err != nil {
		return err
	}
	lun := []string{"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", file}
	if t.kind == AIO {
		lun = append(lun, "--bstype", "aio")
	}
	if err := adm(lun...); err != nil {
		return err
	}
	if t.kind == CacheOff {
		// The caching mode page (SBC-3 6.4.5) with WCE 0.
		page := "mode_page=8:0:18:0x10:0:0xff:0xff:0:0:0xff:0xff:0xff:0xff:0x80:0x14:0:0:0:0:0:0"
		if err := adm("--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--params", page); err != nil {
			return err
		}
	}
	return adm("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
}

func (t *tgtd) Name() string              { return t.kind }
func (t *tgtd) Processes() map[string]int { return map[string]int{t.kind: t.cmd.Process.Pid} }

func (t *tgtd) Run(ctx context.Context, w Workload, d time.Duration) (load.Result, error) {
	return runUnits(ctx, []*unit{t.unit}, w, d)
}

func (t *tgtd) Verify(ctx context.Context) error { return verifyUnits(ctx, []*unit{t.unit}) }

func (t *tgtd) Close() error {
	var err error
	if t.unit != nil {
		err = t.unit.session.Close()
	}
	stop(t.cmd)
	return err
}

// writeInFull makes a file of which every block has been written: unwritten extents make synchronous writes slow.
func writeInFull(path string, size uint64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("make a disk: %w", err)
	}
	defer f.Close()
	p := make([]byte, 1<<20)
	for at := uint64(0); at < size; at += uint64(len(p)) {
		if _, err := f.WriteAt(p, int64(at)); err != nil {
			return fmt.Errorf("write %s in full: %w", path, err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("write %s in full: %w", path, err)
	}
	return nil
}
