package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/iomesh/iomesh/tests/kube/cgroup"
	"github.com/iomesh/iomesh/tests/kube/command"
	"github.com/iomesh/iomesh/tests/kube/netns"
	"github.com/iomesh/iomesh/tests/kube/pki"
	"github.com/iomesh/iomesh/tests/kube/toolchain"
)

const (
	controlIP = "10.89.0.1"
	server    = "https://" + controlIP + ":6443"
	bridge    = "kbr"
)

// startNetwork makes the control plane's network namespace with the bridge
// that joins the nodes. What exists is left alone.
func (c *Cluster) startNetwork(ctx context.Context) error {
	ns := c.Network()
	if netns.Exists(ns) {
		if command.Run(ctx, "ip", "-n", ns, "link", "show", bridge) == nil {
			return nil
		}
		// Left by an Up that was killed between two of the steps below.
		if err := netns.Delete(ctx, ns); err != nil {
			return err
		}
	}
	if err := netns.Add(ctx, ns); err != nil {
		return err
	}
	// The API server cannot advertise a loopback address: it gets the bridge's.
	for _, argv := range [][]string{
		{"nsenter", "--net=" + netns.Path(ns), "sysctl", "-qw", "net.ipv4.ip_forward=1"},
		{"nsenter", "--net=" + netns.Path(ns), "nft", "add table ip lab; " +
			"add set ip lab cut { type ipv4_addr; flags interval; }; " +
			"add chain ip lab in { type filter hook input priority 0; }; add rule ip lab in ip saddr @cut drop; " +
			"add chain ip lab out { type filter hook output priority 0; }; add rule ip lab out ip daddr @cut drop"},
		{"ip", "-n", ns, "link", "add", bridge, "type", "bridge"},
		{"ip", "-n", ns, "addr", "add", controlIP + "/24", "dev", bridge},
		{"ip", "-n", ns, "link", "set", bridge, "up"},
	} {
		if err := command.Run(ctx, argv...); err != nil {
			return err
		}
	}
	return nil
}

// certificates makes what the control plane needs and is not there yet.
func (c *Cluster) certificates() error {
	a, err := pki.Open(c.path("pki"))
	if err != nil {
		return err
	}
	for _, l := range []pki.Leaf{
		{Name: "apiserver", CommonName: "kube-apiserver", Server: true,
			DNSNames: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"},
			IPs:      []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP("10.96.0.1"), net.ParseIP(controlIP)}},
		{Name: "apiserver-kubelet", CommonName: "apiserver-kubelet", Organization: "system:masters"},
		{Name: "front-proxy", CommonName: "front-proxy"},
		{Name: "admin", CommonName: "admin", Organization: "system:masters"},
		{Name: "kcm", CommonName: "system:kube-controller-manager"},
		{Name: "sched", CommonName: "system:kube-scheduler"},
		{Name: "proxy", CommonName: "system:kube-proxy"},
	} {
		if err := a.Issue(l); err != nil {
			return err
		}
	}
	for _, name := range []string{"admin", "kcm", "sched", "proxy"} {
		if err := a.Kubeconfig(name, server); err != nil {
			return err
		}
	}
	return a.SigningKey("sa")
}

// startControl starts etcd, the API server, the controllers and the
// scheduler, unless they run, and returns when the API server is ready.
func (c *Cluster) startControl(ctx context.Context, set toolchain.Set) error {
	r, err := c.load()
	if err != nil {
		return err
	}
	pids, err := r.Control.Pids()
	if err != nil {
		return err
	}
	if len(pids) == 4 && c.ready(ctx) {
		return nil
	}
	if err := endGroup(ctx, r.Control); err != nil {
		return err
	}
	if err := r.Control.Create(); err != nil {
		return err
	}
	for _, argv := range c.controlPlane()[:2] {
		if err := c.startDaemon(r, argv); err != nil {
			return err
		}
	}
	start := time.Now()
	wait, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("not ready within 2 minutes"))
	defer cancel()
	if err := poll(wait, 100*time.Millisecond, func() (bool, error) { return c.ready(wait), nil }); err != nil {
		return fmt.Errorf("start the API server: %w; see %s", err, c.path("log", "kube-apiserver.log"))
	}
	c.progress("API server ready after %s", time.Since(start).Round(100*time.Millisecond))
	for _, argv := range c.controlPlane()[2:] {
		if err := c.startDaemon(r, argv); err != nil {
			return err
		}
	}
	return c.applyCRDs(ctx, set.CRD)
}

// applyCRDs installs the snapshot kinds, which no part of Kubernetes brings.
func (c *Cluster) applyCRDs(ctx context.Context, dir string) error {
	argv := append(c.Enter(), c.kubectl()...)
	if err := command.Run(ctx, append(argv, "apply", "--server-side", "-f", dir)...); err != nil {
		return fmt.Errorf("install the snapshot kinds: %w", err)
	}
	return nil
}

// kubectl returns the start of a kubectl command line.
func (c *Cluster) kubectl() []string {
	bin, err := c.Bin()
	if err != nil {
		bin = ""
	}
	return []string{filepath.Join(bin, "kubectl"), "--kubeconfig", c.Kubeconfig()}
}

// controlPlane returns the daemons' command lines in the order of their start.
func (c *Cluster) controlPlane() [][]string {
	p := func(file string) string { return c.path("pki", file) }
	return [][]string{
		{"etcd", "--data-dir", c.path("etcd"),
			"--listen-client-urls", "http://127.0.0.1:2379", "--advertise-client-urls", "http://127.0.0.1:2379",
			"--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level", "warn"},
		{"kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--advertise-address=" + controlIP, "--bind-address=0.0.0.0", "--secure-port=6443",
			"--tls-cert-file=" + p("apiserver.crt"), "--tls-private-key-file=" + p("apiserver.key"), "--client-ca-file=" + p("ca.crt"),
			"--kubelet-client-certificate=" + p("apiserver-kubelet.crt"), "--kubelet-client-key=" + p("apiserver-kubelet.key"),
			"--kubelet-certificate-authority=" + p("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
			"--requestheader-client-ca-file=" + p("ca.crt"), "--requestheader-allowed-names=front-proxy",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + p("front-proxy.crt"), "--proxy-client-key-file=" + p("front-proxy.key"),
			"--service-account-issuer=https://kubernetes.default.svc",
			"--service-account-key-file=" + p("sa.pub"), "--service-account-signing-key-file=" + p("sa.key"),
			"--service-cluster-ip-range=10.96.0.0/16", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--allow-privileged=true", "--enable-aggregator-routing=true", "--event-ttl=1h"},
		{"kube-controller-manager", "--kubeconfig=" + p("kcm.kubeconfig"),
			"--authentication-kubeconfig=" + p("kcm.kubeconfig"), "--authorization-kubeconfig=" + p("kcm.kubeconfig"),
			"--use-service-account-credentials=true", "--service-account-private-key-file=" + p("sa.key"), "--root-ca-file=" + p("ca.crt"),
			"--cluster-signing-cert-file=" + p("ca.crt"), "--cluster-signing-key-file=" + p("ca.key"),
			"--leader-elect=false", "--bind-address=127.0.0.1", "--node-monitor-grace-period=20s"},
		{"kube-scheduler", "--kubeconfig=" + p("sched.kubeconfig"),
			"--authentication-kubeconfig=" + p("sched.kubeconfig"), "--authorization-kubeconfig=" + p("sched.kubeconfig"),
			"--leader-elect=false", "--bind-address=127.0.0.1"},
	}
}

// startDaemon starts a program of the control plane. It belongs to process 1
// of the machine from then on (setsid --fork), never to the caller.
func (c *Cluster) startDaemon(r record, argv []string) error {
	log, err := openLog(c.path("log", argv[0]+".log"))
	if err != nil {
		return err
	}
	defer log.Close()
	line := append(c.Enter(), "setsid", "--fork", filepath.Join(r.Bin, argv[0]))
	return runIn(r.Control, exec.Command(line[0], append(line[1:], argv[1:]...)...), log)
}

// runIn runs cmd in a control group to its end, which for a daemon is the
// moment it has started.
func runIn(g cgroup.Group, cmd *exec.Cmd, log *os.File) error {
	cmd.Stdout, cmd.Stderr = log, log
	if err := g.Start(cmd); err != nil {
		return fmt.Errorf("start %v: %w", cmd.Args, err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("run %v: %w; see %s", cmd.Args, err, log.Name())
	}
	return nil
}

func openLog(file string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return f, nil
}

// stopControl ends the control plane: the API server before etcd is not
// needed, as etcd recovers from a kill.
func (c *Cluster) stopControl(ctx context.Context, r record) error {
	return endGroup(ctx, r.Control)
}

// endGroup kills every process of a group and removes it.
func endGroup(ctx context.Context, g cgroup.Group) error {
	if g.Version == 0 {
		return nil // never planned
	}
	wait, cancel := context.WithTimeoutCause(ctx, 50*time.Second, errors.New("not gone within 50 seconds"))
	defer cancel()
	// Twice over, for what is started between the listing and the kill.
	err := poll(wait, 20*time.Millisecond, func() (bool, error) {
		pids, err := g.Pids()
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return false, fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		// On cgroup v1 a frozen process dies only when it is thawed.
		if len(pids) > 0 && g.Frozen() {
			if err := g.Thaw(wait); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return false, err
			}
		}
		return len(pids) == 0, err
	})
	if err != nil {
		pids, _ := g.Pids()
		var left []string
		for _, pid := range pids {
			left = append(left, describe(pid))
		}
		return fmt.Errorf("end processes: %s: %w", strings.Join(left, "; "), err)
	}
	return g.Remove(wait)
}

// describe says what a process that does not end is, and where in the kernel each of its threads is.
func describe(pid int) string {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	name, _ := os.ReadFile(filepath.Join(proc, "comm"))
	text := fmt.Sprintf("%d %s", pid, strings.TrimSpace(string(name)))
	threads, _ := filepath.Glob(filepath.Join(proc, "task", "*"))
	for _, t := range threads {
		var where []string
		stack, _ := os.ReadFile(filepath.Join(t, "stack"))
		for line := range strings.Lines(string(stack)) {
			f := strings.Fields(line) // [<0>] name+offset/size
			fn, _, _ := strings.Cut(f[len(f)-1], "+")
			where = append(where, fn)
		}
		text += fmt.Sprintf(" (thread %s: %s)", filepath.Base(t), strings.Join(where, " < "))
	}
	return text
}
