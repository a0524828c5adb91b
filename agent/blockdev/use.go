package blockdev

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// use is what the machine does with its devices now.
type use struct {
	byNumber map[string][]Mount // "8:1"
	bySource map[string][]Mount // "/dev/sda1": file systems with several devices have a number of their own (btrfs)
	swaps    map[string]bool
}

// readUse reads the mounts of the machine's first process and the swaps. Without the mounts nothing is known to be free, so that is an error.
func (s *Scanner) readUse() (*use, error) {
	proc := root(s.ProcDir, "/proc")
	u := &use{byNumber: map[string][]Mount{}, bySource: map[string][]Mount{}, swaps: map[string]bool{}}
	b, err := readBounded(filepath.Join(proc, "1", "mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("read the machine's mounts: %w (does the pod have hostPID?)", err)
	}
	u.addMounts(string(b))
	swaps, err := readBounded(filepath.Join(proc, "swaps"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the machine's swaps: %w", err)
	}
	for i, line := range strings.Split(string(swaps), "\n") {
		if f := strings.Fields(line); i > 0 && len(f) > 0 {
			u.swaps[unescape(f[0])] = true
		}
	}
	return u, nil
}

// addMounts parses mountinfo (proc(5)): "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw".
func (u *use) addMounts(table string) {
	for _, line := range strings.Split(table, "\n") {
		f := strings.Fields(line)
		dash := slices.Index(f, "-")
		if len(f) < 6 || dash < 0 || dash+2 >= len(f) {
			continue
		}
		m := Mount{Path: unescape(f[4]), Fstype: f[dash+1]}
		u.byNumber[f[2]] = append(u.byNumber[f[2]], m)
		if source := unescape(f[dash+2]); strings.HasPrefix(source, "/dev/") {
			u.bySource[source] = append(u.bySource[source], m)
		}
	}
}

func (u *use) of(d *Device) ([]Mount, bool) {
	mounts := slices.Clone(u.byNumber[fmt.Sprintf("%d:%d", d.Major, d.Minor)])
	for _, m := range u.bySource[d.Path] {
		if !slices.Contains(mounts, m) {
			mounts = append(mounts, m)
		}
	}
	slices.SortFunc(mounts, func(a, b Mount) int { return strings.Compare(a.Path, b.Path) })
	return slices.Compact(mounts), u.swaps[d.Path]
}

// tableBytesMax bounds mountinfo and swaps; a node with 10,000 mounts has about 2 MiB.
const tableBytesMax = 64 << 20

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, tableBytesMax))
}

// unescape undoes the octal escapes of /proc tables (a space is \040).
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
