package iscsi

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// sysfs reads the kernel's view. root is /sys, or a tree of a test.
type sysfs struct{ root string }

// session is one iSCSI session of the kernel.
type session struct {
	name      string // sessionN
	target    string
	initiator string
	state     string
}

func (s session) loggedIn() bool { return s.state == "LOGGED_IN" }

// disk is a SCSI disk below a session.
type disk struct {
	name      string // sdX
	serial    string // VPD page 80h
	lun       uint32
	state     string // running, offline, …
	sizeBytes uint64
	number    string // major:minor
	holders   []string
}

func read(path ...string) string {
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// sessions lists all sessions of the machine.
func (s sysfs) sessions() []session {
	dirs, _ := filepath.Glob(filepath.Join(s.root, "class/iscsi_session/session*"))
	var out []session
	for _, d := range dirs {
		out = append(out, session{name: filepath.Base(d), target: read(d, "targetname"), initiator: read(d, "initiatorname"), state: read(d, "state")})
	}
	return out
}

// disks lists the disks of a session.
func (s sysfs) disks(name string) []disk {
	dirs, _ := filepath.Glob(filepath.Join(s.root, "class/iscsi_session", name, "device/target*/*:*:*:*/block/*"))
	var out []disk
	for _, d := range dirs {
		device := filepath.Dir(filepath.Dir(d)) // H:C:T:L
		address := filepath.Base(device)
		lun, err := strconv.ParseUint(address[strings.LastIndexByte(address, ':')+1:], 10, 32)
		if err != nil {
			continue
		}
		sectors, _ := strconv.ParseUint(read(d, "size"), 10, 55)
		holders, _ := os.ReadDir(filepath.Join(d, "holders"))
		one := disk{
			name: filepath.Base(d), serial: serial(filepath.Join(device, "vpd_pg80")), lun: uint32(lun), state: read(device, "state"),
			sizeBytes: sectors * 512, number: read(d, "dev"),
		}
		for _, h := range holders {
			one.holders = append(one.holders, h.Name())
		}
		out = append(out, one)
	}
	return out
}

// serial reads VPD page 80h (SPC-4 §7.8.4): 4 bytes of header, the last two the length, then the serial number.
func serial(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return parseSerial(b)
}

func parseSerial(b []byte) string {
	if len(b) < 4 || b[1] != 0x80 {
		return ""
	}
	n := int(b[2])<<8 | int(b[3])
	return strings.Trim(string(b[4:min(len(b), 4+n)]), " \x00")
}

// write sets an attribute of a disk's SCSI device.
func (s sysfs) write(name, attribute, value string) error {
	path := filepath.Join(s.root, "block", name, "device", attribute)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set %s of %s: %w", attribute, name, err)
	}
	_, err = f.WriteString(value)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("set %s of %s: %w", attribute, name, err)
	}
	return nil
}

// sameID compares a serial number with a volume id: a UUID with or without its hyphens.
func sameID(serial, id string) bool {
	strip := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "")) }
	return serial != "" && strip(serial) == strip(id)
}
