// Package mode decides how a node attaches volumes: by the host's kernel initiator (iscsi) or by iomesh-attach (userspace).
//
// The decision and its reason go to the log and to a file, which the agent reports in the status of the cluster:
//
//	{"mode": "userspace", "reason": "the kernel has no iSCSI initiator: …", "checked": ["…"]}
package mode

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Mode is a way of attaching.
type Mode string

// Modes. Auto is only a wish; a decision is one of the others.
const (
	Auto      Mode = "auto"
	ISCSI     Mode = "iscsi"
	Userspace Mode = "userspace"
)

// Parse reads the --attach flag.
func Parse(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Auto, ISCSI, Userspace:
		return m, nil
	}
	return "", fmt.Errorf("--attach=%q: want auto, iscsi or userspace", s)
}

// Decision is what was decided and why.
type Decision struct {
	Mode   Mode   `json:"mode"`
	Reason string `json:"reason"`
	// Checked are the findings, one line each.
	Checked []string `json:"checked"`
}

// Host is what is asked about a host. Each method returns nil if the thing is there, else why not.
type Host interface {
	// Initiator: the kernel's iSCSI initiator answers in this network namespace.
	Initiator() error
	// Daemon: iscsid runs.
	Daemon() error
	// Tool: iscsiadm is installed.
	Tool() error
}

// Decide chooses a mode. A wish other than auto is followed, and what is missing for it is said.
func Decide(wish Mode, h Host) Decision {
	d := Decision{Mode: ISCSI}
	var missing []string
	for _, check := range []struct {
		what string
		err  error
	}{
		{"kernel initiator", h.Initiator()}, {"iscsid", h.Daemon()}, {"iscsiadm", h.Tool()},
	} {
		if check.err != nil {
			missing = append(missing, check.err.Error())
			d.Checked = append(d.Checked, fmt.Sprintf("%s: %v", check.what, check.err))
		} else {
			d.Checked = append(d.Checked, check.what+": ok")
		}
	}
	switch {
	case wish == Userspace:
		d.Mode, d.Reason = Userspace, "userspace is configured"
	case wish == ISCSI && len(missing) > 0:
		d.Reason = "iscsi is configured, but volumes cannot be attached: " + strings.Join(missing, "; ")
	case wish == ISCSI:
		d.Reason = "iscsi is configured"
	case len(missing) > 0:
		d.Mode, d.Reason = Userspace, strings.Join(missing, "; ")
	default:
		d.Reason = "the host has the kernel initiator, iscsid and iscsiadm"
	}
	return d
}

// Write writes the decision to a file, for the agent.
func (d Decision) Write(path string) error {
	b, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode attach mode: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("write attach mode: %w", err)
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write attach mode: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write attach mode: %w", err)
	}
	return nil
}

// Linux asks the host that this process runs on. The container has the host's network namespace and, at Root, its root directory.
type Linux struct {
	// Root is the host's root directory, /proc/1/root with hostPID.
	Root string
}

// netlinkISCSI is NETLINK_ISCSI of linux/netlink.h.
const netlinkISCSI = 8

// Initiator sends an empty message to the initiator's netlink socket, which ignores it. It exists only in the machine's first
// network namespace, so a node within another one is recognised too.
func (Linux) Initiator() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, netlinkISCSI)
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return errors.New("the kernel has no iSCSI initiator, or its module is not loaded (modprobe iscsi_tcp)")
	}
	if err != nil {
		return fmt.Errorf("open the kernel initiator's socket: %w", err)
	}
	defer unix.Close(fd)
	err = unix.Sendto(fd, []byte{0}, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	if errors.Is(err, unix.ECONNREFUSED) {
		return errors.New("the kernel initiator does not answer in this network namespace")
	}
	if err != nil {
		return fmt.Errorf("ask the kernel initiator: %w", err)
	}
	if _, err := os.Stat("/sys/module/iscsi_tcp"); err != nil {
		if _, err := os.Stat("/sys/class/iscsi_transport/tcp"); err != nil {
			return errors.New("the kernel's iscsi_tcp is not loaded (modprobe iscsi_tcp)")
		}
	}
	return nil
}

// iscsidSocket is iscsid's abstract socket, as /proc/net/unix shows it.
const iscsidSocket = "@ISCSIADM_ABSTRACT_NAMESPACE"

// Daemon looks for iscsid's socket. Abstract sockets belong to the network namespace, so the host's are seen.
func (Linux) Daemon() error {
	b, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return fmt.Errorf("look for iscsid: %w", err)
	}
	if !strings.Contains(string(b), iscsidSocket) {
		return errors.New("iscsid does not run on the host (systemctl enable --now iscsid)")
	}
	return nil
}

// Tool looks for iscsiadm on the host.
func (l Linux) Tool() error {
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin"} {
		// Lstat: an absolute link would lead into the container.
		if _, err := os.Lstat(filepath.Join(l.Root, dir, "iscsiadm")); err == nil {
			return nil
		}
	}
	return errors.New("iscsiadm is not installed on the host (package open-iscsi or iscsi-initiator-utils)")
}
