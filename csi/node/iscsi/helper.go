package iscsi

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"time"

	helper "github.com/longhorn/go-iscsi-helper/iscsi"
	"github.com/longhorn/go-iscsi-helper/util"
)

// ifaceName is our record of an initiator interface on the host.
const ifaceName = "iomesh"

// tool is what is run on the host. An error is trusted; its absence is not: see the package documentation.
type tool interface {
	// Iface makes the interface record with our initiator name. No secret is involved.
	Iface(initiator string) error
	// NewRecord makes a node record, without secrets.
	NewRecord(portal, iqn string) error
	Login(portal, iqn string) error
	Logout(iqn string) error
	Delete(iqn string) error
}

// commandTimeout bounds one run of iscsiadm.
const commandTimeout = 20 * time.Second

// host runs go-iscsi-helper in the host's namespaces.
type host struct {
	namespaces string // <proc>/1/ns

	mu sync.Mutex
	ne *util.NamespaceExecutor
}

// executor is made at the first use: it runs commands on the host, and a plugin that attaches nothing should not need them.
func (h *host) executor() (*util.NamespaceExecutor, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ne == nil {
		ne, err := util.NewNamespaceExecutor(h.namespaces)
		if err != nil {
			return nil, fmt.Errorf("enter the host's namespaces (needs hostPID, privileged, and nsenter in the image): %w", err)
		}
		if err := helper.CheckForInitiatorExistence(ne); err != nil {
			return nil, fmt.Errorf("iscsiadm on the host: %w", err)
		}
		h.ne = ne
	}
	return h.ne, nil
}

// errTimeout is what the library keeps to itself.
var errTimeout = errors.New("iscsiadm did not end in time")

func (h *host) iscsiadm(args ...string) error {
	ne, err := h.executor()
	if err != nil {
		return err
	}
	start := time.Now()
	_, err = ne.ExecuteWithTimeout(commandTimeout, "iscsiadm", args)
	if err == nil && time.Since(start) >= commandTimeout {
		err = errTimeout
	}
	return err
}

// Iface implements tool.
func (h *host) Iface(initiator string) error {
	if err := h.iscsiadm("-m", "iface", "-I", ifaceName, "-o", "show"); err != nil {
		if err := h.iscsiadm("-m", "iface", "-I", ifaceName, "-o", "new"); err != nil {
			return fmt.Errorf("make interface record: %w", err)
		}
	}
	for _, s := range []setting{{"iface.transport_name", "tcp"}, {"iface.initiatorname", initiator}} {
		if err := h.iscsiadm("-m", "iface", "-I", ifaceName, "-o", "update", "-n", s.key, "-v", s.value); err != nil {
			return fmt.Errorf("set %s of the interface record: %w", s.key, err)
		}
	}
	return nil
}

// NewRecord implements tool.
func (h *host) NewRecord(portal, iqn string) error {
	if err := h.iscsiadm("-m", "node", "-o", "new", "-T", iqn, "-p", portal, "-I", ifaceName); err != nil {
		return fmt.Errorf("make node record: %w", err)
	}
	return nil
}

// Login implements tool.
func (h *host) Login(portal, iqn string) error {
	ne, err := h.executor()
	if err != nil {
		return err
	}
	return helper.LoginTarget(portal, iqn, ne)
}

// Logout implements tool.
func (h *host) Logout(iqn string) error {
	ne, err := h.executor()
	if err != nil {
		return err
	}
	return helper.LogoutTarget("", iqn, ne)
}

// Delete implements tool.
func (h *host) Delete(iqn string) error {
	ne, err := h.executor()
	if err != nil {
		return err
	}
	return helper.DeleteDiscoveredTarget("", iqn, ne)
}

func newHost(proc string) *host { return &host{namespaces: filepath.Join(proc, "1/ns")} }

// refused says whether iscsiadm's error means that the target refused the credentials (exit status 24, iscsiadm(8)).
func refused(err error) bool {
	return err != nil && (strings.Contains(err.Error(), "authorization failure") || strings.Contains(err.Error(), "exit status 24"))
}

// checkPortal accepts host:port.
func checkPortal(portal string) error {
	if host, port, err := net.SplitHostPort(portal); err != nil || host == "" || port == "" {
		return fmt.Errorf("portal %q: want host:port", portal)
	}
	return nil
}
