package iscsi

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/iomesh/iomesh/csi/node"
	"github.com/iomesh/iomesh/storaged/timeouts"
)

// nodeDirs are where open-iscsi keeps node records, by distribution.
var nodeDirs = []string{"etc/iscsi/nodes", "var/lib/iscsi/nodes"}

// recordBytesMax bounds a record file; real ones have about 2 KiB.
const recordBytesMax = 64 << 10

// setting is one line of a node record.
type setting struct{ key, value string }

// settings of a session: quick to notice a dead path, slow to give up I/O.
func settings(t node.Target) []setting {
	out := []setting{
		{"node.startup", "manual"},
		{"node.leading_login", "No"},
		{"node.session.timeo.replacement_timeout", seconds(timeouts.Replacement)},
		{"node.session.err_timeo.abort_timeout", "10"},
		{"node.session.err_timeo.lu_reset_timeout", "10"},
		{"node.session.initial_login_retry_max", "4"},
		{"node.session.queue_depth", "128"},
		{"node.session.cmds_max", "128"},
		{"node.session.iscsi.DefaultTime2Wait", "0"},
		{"node.conn[0].timeo.login_timeout", seconds(timeouts.Login)},
		{"node.conn[0].timeo.logout_timeout", seconds(timeouts.Login)},
		{"node.conn[0].timeo.noop_out_interval", seconds(timeouts.NOPInterval)},
		{"node.conn[0].timeo.noop_out_timeout", seconds(timeouts.NOPTimeout)},
	}
	if t.ChapUser == "" {
		return append(out, setting{"node.session.auth.authmethod", "None"})
	}
	out = append(out, setting{"node.session.auth.authmethod", "CHAP"},
		setting{"node.session.auth.username", t.ChapUser}, setting{"node.session.auth.password", t.ChapSecret})
	if t.MutualUser != "" {
		out = append(out, setting{"node.session.auth.username_in", t.MutualUser}, setting{"node.session.auth.password_in", t.MutualSecret})
	}
	return out
}

// seconds rounds up: open-iscsi knows no fractions.
func seconds(d time.Duration) string { return strconv.Itoa(int((d + time.Second - 1) / time.Second)) }

// recordFiles finds the record files of a target that belong to our interface. open-iscsi keeps them as <target>/<portal> or as
// <target>/<portal>,<group>/<interface>.
func recordFiles(hostRoot, iqn string) ([]string, error) {
	var out []string
	for _, dir := range nodeDirs {
		root := filepath.Join(hostRoot, dir, iqn)
		err := filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			b, err := readRecord(path)
			if err != nil {
				return err
			}
			if value(b, "iface.iscsi_ifacename") == ifaceName && value(b, "node.name") == iqn {
				out = append(out, path)
			}
			return nil
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("look for node records of %s: %w", iqn, err)
		}
	}
	return out, nil
}

// recordedTargets returns the targets of a volume that have node records. The name of a target ends with its volume's id.
func recordedTargets(hostRoot, volumeID string) []string {
	var out []string
	for _, dir := range nodeDirs {
		paths, _ := filepath.Glob(filepath.Join(hostRoot, dir, "iqn.*:"+volumeID))
		for _, p := range paths {
			if files, err := recordFiles(hostRoot, filepath.Base(p)); err == nil && len(files) > 0 {
				out = append(out, filepath.Base(p))
			}
		}
	}
	return out
}

func readRecord(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.Size() > recordBytesMax {
		return nil, fmt.Errorf("%s has %d bytes and is no node record", path, info.Size())
	}
	return os.ReadFile(path)
}

// value returns a setting of a record, "" if it has none.
func value(record []byte, key string) string {
	for line := range bytes.Lines(record) {
		if k, v, ok := strings.Cut(strings.TrimSpace(string(line)), "="); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

const recordEnd = "# END RECORD"

// edit returns a record with the settings changed or added. Settings of the authentication that are not given are removed, so that
// no old secret stays.
func edit(record []byte, change []setting) ([]byte, error) {
	set := map[string]bool{}
	for _, s := range change {
		if strings.ContainsAny(s.key+s.value, "\r\n\x00") || s.value == "" || strings.TrimSpace(s.value) != s.value {
			return nil, fmt.Errorf("the value of %s cannot be written to a node record: it is empty, or has line breaks or spaces at its ends", s.key)
		}
		set[s.key] = true
	}
	var out strings.Builder
	ended := false
	for line := range strings.Lines(string(record)) {
		k, _, isSetting := strings.Cut(strings.TrimSpace(line), "=")
		k = strings.TrimSpace(k)
		switch {
		case strings.TrimSpace(line) == recordEnd && !ended:
			ended = true
			for _, s := range change {
				fmt.Fprintf(&out, "%s = %s\n", s.key, s.value)
			}
		case isSetting && (set[k] || strings.HasPrefix(k, "node.session.auth.") && k != "node.session.auth.chap_algs"):
			continue
		}
		out.WriteString(line)
	}
	if !ended {
		return nil, errors.New("the node record has no end mark")
	}
	return []byte(out.String()), nil
}

// rewrite replaces a record file. The new file is made outside the records' tree: iscsiadm reads every file in there.
func rewrite(hostRoot, path string, change []setting) error {
	old, err := readRecord(path)
	if err != nil {
		return fmt.Errorf("read node record: %w", err)
	}
	b, err := edit(old, change)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var temp string
	for _, dir := range nodeDirs {
		if strings.HasPrefix(path, filepath.Join(hostRoot, dir)+"/") {
			temp = filepath.Join(hostRoot, filepath.Dir(dir), ".iomesh-record-"+strconv.Itoa(os.Getpid()))
		}
	}
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write node record: %w", err)
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write node record: %w", err), os.Remove(temp))
	}
	return nil
}
