// Package fakesys builds the files that package blockdev reads (sysfs, udev database, mounts, device content) from a short text, for tests.
//
//	# comment
//	device sda pci0000:00/ata1/host0/block/sda     a directory in sysfs, and its entry in class/block
//	size 8GiB                                      attributes of the last device: a sysfs file and its content
//	dev 8:0
//	device/model SAMSUNG SSD
//	holders dm-0                                   holders and slaves: a link
//	udev ID_WWN=0x5000                             a variable in the udev database
//	content 0 XFSB                                 bytes of the device file, Go syntax (\x00)
//	mount 8:1 / ext4 /dev/sda1                     a line of mountinfo
//	swap /dev/sda3                                 a line of /proc/swaps
package fakesys

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/iomesh/iomesh/agent/blockdev"
)

// Build writes the tree below dir and returns a scanner of it.
func Build(dir, text, node string) (*blockdev.Scanner, error) {
	b := &builder{dir: dir}
	for i, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if err := b.line(line); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", i+1, line, err)
		}
	}
	if err := b.write("proc/1/mountinfo", b.mounts); err != nil {
		return nil, err
	}
	if err := b.write("proc/swaps", "Filename\t\t\t\tType\t\tSize\n"+b.swaps); err != nil {
		return nil, err
	}
	return &blockdev.Scanner{
		SysDir: filepath.Join(dir, "sys"), DevDir: filepath.Join(dir, "dev"), UdevDir: filepath.Join(dir, "udev"), ProcDir: filepath.Join(dir, "proc"), Node: node,
	}, nil
}

type builder struct {
	dir, sysDir, name string
	devNumber         string
	mounts, swaps     string
}

func (b *builder) write(path, content string) error {
	path = filepath.Join(b.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(content), 0o644)
}

func (b *builder) line(line string) error {
	key, value, _ := strings.Cut(line, " ")
	value = strings.TrimSpace(value)
	switch key {
	case "device":
		name, path, _ := strings.Cut(value, " ")
		return b.device(name, path)
	case "mount":
		f := strings.Fields(value)
		if len(f) != 4 {
			return fmt.Errorf("want: mount <number> <path> <fstype> <source>")
		}
		b.mounts += fmt.Sprintf("1 0 %s / %s rw - %s %s rw\n", f[0], f[1], f[2], f[3])
		return nil
	case "swap":
		b.swaps += value + "\tpartition\t1\n"
		return nil
	case "size":
		n, err := parseSize(value)
		if err != nil {
			return err
		}
		if err := b.attr("size", strconv.FormatInt(n/512, 10)); err != nil {
			return err
		}
		dev := filepath.Join(b.dir, "dev", b.name)
		if err := os.MkdirAll(filepath.Dir(dev), 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(dev, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		return f.Truncate(n)
	case "content":
		at, quoted, _ := strings.Cut(value, " ")
		off, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			return err
		}
		content, err := strconv.Unquote(`"` + quoted + `"`)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(b.dir, "dev", b.name), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte(content), off)
		return err
	case "udev":
		path := filepath.Join(b.dir, "udev/data", "b"+b.devNumber)
		old, _ := os.ReadFile(path)
		return b.write(filepath.Join("udev/data", "b"+b.devNumber), string(old)+"E:"+value+"\n")
	case "holders", "slaves":
		return b.attr(key+"/"+value, "")
	case "dev":
		b.devNumber = value
	case "device/vpd_pg80":
		raw, err := strconv.Unquote(`"` + value + `"`)
		if err != nil {
			return err
		}
		value = raw
	}
	return b.attr(key, value+"\n")
}

func (b *builder) device(name, path string) error {
	b.name, b.sysDir = name, filepath.Join("sys/devices", path)
	real := filepath.Join(b.dir, b.sysDir)
	link := filepath.Join(b.dir, "sys/class/block", name)
	for _, d := range []string{real, filepath.Dir(link)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return os.Symlink(real, link)
}

func (b *builder) attr(name, content string) error {
	return b.write(filepath.Join(b.sysDir, name), content)
}

func parseSize(s string) (int64, error) {
	for _, u := range []struct {
		suffix string
		n      int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n, ok := strings.CutSuffix(s, u.suffix); ok {
			v, err := strconv.ParseInt(n, 10, 64)
			return v * u.n, err
		}
	}
	return strconv.ParseInt(s, 10, 64)
}
