package blockdev

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// attrBytesMax bounds what is read of one sysfs file.
const attrBytesMax = 64 << 10

// attrs reads the files of one device's directory in sysfs.
type attrs struct{ dir string }

// raw returns the content of a file, or nil.
func (a attrs) raw(name string) []byte {
	f, err := os.Open(filepath.Join(a.dir, name))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, attrBytesMax))
	if err != nil {
		return nil
	}
	return b
}

func (a attrs) text(name string) string { return strings.TrimSpace(string(a.raw(name))) }

func (a attrs) flag(name string) bool { return a.text(name) == "1" }

func (a attrs) number(name string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("file %s: %w", name, err)
	}
	return n, nil
}

func (a attrs) number32(name string, otherwise uint32) uint32 {
	n, err := a.number(name)
	if err != nil || n == 0 || n > 1<<30 {
		return otherwise
	}
	return uint32(n)
}

// list returns the names in a directory.
func (a attrs) list(name string) []string {
	entries, err := os.ReadDir(filepath.Join(a.dir, name))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.SortFunc(out, natural)
	return out
}

// uevent returns one variable of the device's uevent file.
func (a attrs) uevent(key string) string {
	for _, line := range strings.Split(string(a.raw("uevent")), "\n") {
		if v, ok := strings.CutPrefix(line, key+"="); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// vpdSerial returns the unit serial number of a SCSI device: page 80h of its vital product data (SPC-6 §7.7.20), which is a four byte
// header and text.
func (a attrs) vpdSerial() string {
	page := a.raw("device/vpd_pg80")
	if len(page) < 4 || page[1] != 0x80 {
		return ""
	}
	n := int(page[2])<<8 | int(page[3])
	return string(bytes.TrimRight(page[4:min(len(page), 4+n)], "\x00"))
}

// udev returns the udev database's variables of a device, empty without a udev on this machine.
func (s *Scanner) udev(major, minor uint32) map[string]string {
	f, err := os.Open(filepath.Join(root(s.UdevDir, "/run/udev"), "data", fmt.Sprintf("b%d:%d", major, minor)))
	if err != nil {
		return nil
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, attrBytesMax))
	if err != nil {
		return nil
	}
	vars := map[string]string{}
	for _, line := range strings.Split(string(b), "\n") {
		if kv, ok := strings.CutPrefix(line, "E:"); ok {
			k, v, _ := strings.Cut(kv, "=")
			vars[k] = v
		}
	}
	return vars
}

// identity collects what a whole device says of itself.
func (s *Scanner) identity(d *Device, a attrs, udev map[string]string, real string) Key {
	if d.Type == Loop {
		if file := a.text("loop/backing_file"); file != "" {
			return Key{BackingFile: file, Node: s.Node}
		}
	}
	if wwid, ok := strings.CutPrefix(a.text("dm/uuid"), "mpath-"); ok {
		return Key{WWN: cleanWords(wwid)}
	}
	id := Key{
		WWN:    cleanWords(firstOf(a.text("wwid"), a.text("device/wwid"), udev["ID_WWN_WITH_EXTENSION"], udev["ID_WWN"])),
		Serial: cleanWords(firstOf(a.text("serial"), a.text("device/serial"), a.vpdSerial(), udev["ID_SERIAL_SHORT"])),
		Vendor: cleanWords(firstOf(a.text("device/vendor"), udev["ID_VENDOR"])),
		Model:  cleanWords(firstOf(a.text("device/model"), udev["ID_MODEL"])),
	}
	if strings.HasPrefix(id.Vendor, "0x") {
		id.Vendor = "" // a PCI number, not a name
	}
	if !id.Stable() {
		id.Node = s.Node
		// The directory of the parent: the last element would be the kernel name, which changes.
		id.BusPath = strings.TrimPrefix(filepath.Dir(filepath.Dir(real)), s.sys())
		if d.Type != Disk {
			id.BusPath = d.KernelName
		}
	}
	return id
}

func firstOf(values ...string) string {
	for _, v := range values {
		if v = strings.TrimSpace(v); v != "" {
			return v
		}
	}
	return ""
}
