package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/iomesh/iomesh/tests/kube/cgroup"
	"github.com/iomesh/iomesh/tests/kube/command"
	"github.com/iomesh/iomesh/tests/kube/loopdev"
	"github.com/iomesh/iomesh/tests/kube/netns"
	"github.com/iomesh/iomesh/tests/kube/pki"
)

// nodesMax is bounded by the address plan: 10.89.0.11 and up.
const nodesMax = 100

// node is a node and its record on disk, node.json.
type node struct {
	c *Cluster

	Name   string       `json:"name"`
	Index  int          `json:"index"` // from 1
	Group  cgroup.Group `json:"group"`
	BootID string       `json:"bootID"` // new with every boot
	Cut    bool         `json:"cut"`    // the cable is pulled, over power-offs too
	Disks  []diskRecord `json:"disks,omitempty"`
	// Doomed are the loop devices that a power-off under way still has to
	// detach: once the mounts are gone, nothing else tells whose they are.
	Doomed []loopdev.Device `json:"doomed,omitempty"`
	// Images maps the archives its containerd holds to their SHA-256.
	Images map[string]string `json:"images,omitempty"`
}

func (n *node) ip() string      { return "10.89.0." + strconv.Itoa(10+n.Index) }
func (n *node) podCIDR() string { return "10.244." + strconv.Itoa(n.Index) + ".0/24" }
func (n *node) network() string { return netns.Name(n.c.id, n.Name) }

// link is the control plane's end of the node's cable.
func (n *node) link() string { return "to-" + n.Name }

func (n *node) path(parts ...string) string {
	return n.c.path(append([]string{"nodes", n.Name}, parts...)...)
}

// root returns the path on this machine of a file on the node's own disk.
func (n *node) root(parts ...string) string {
	return n.path(append([]string{"root"}, parts...)...)
}

func (n *node) save() error {
	if err := writeJSON(n.path("node.json"), n); err != nil {
		return fmt.Errorf("record node %s: %w", n.Name, err)
	}
	return nil
}

// planNode returns the record of the i-th node; it makes it if there is none.
func (c *Cluster) planNode(i int) (*node, error) {
	name := "n" + strconv.Itoa(i)
	n, err := c.node(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return n, err
	}
	n = &node{c: c, Name: name, Index: i}
	if n.Group, err = cgroup.Plan(netns.Name(c.id, name)); err != nil {
		return nil, err
	}
	return n, n.save()
}

// node reads the record of a node.
func (c *Cluster) node(name string) (*node, error) {
	n := &node{c: c}
	err := readJSON(c.path("nodes", filepath.Base(name), "node.json"), n)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no node %s in the cluster of %s: %w", name, c.dir, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	return n, nil
}

// nodes reads the records of all nodes, in order.
func (c *Cluster) nodes() ([]*node, error) {
	files, err := filepath.Glob(c.path("nodes", "*", "node.json"))
	if err != nil {
		return nil, err
	}
	var nodes []*node
	for _, f := range files {
		n, err := c.node(filepath.Base(filepath.Dir(f)))
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b *node) int { return a.Index - b.Index })
	return nodes, nil
}

// Nodes returns the names of all nodes, running or not.
func (c *Cluster) Nodes() ([]string, error) {
	nodes, err := c.nodes()
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Name
	}
	return names, err
}

// running reports whether the node has power.
func (n *node) running() bool {
	_, err := n.init()
	return err == nil
}

// init returns the process id, on this machine, of the node's process 1.
func (n *node) init() (int, error) {
	pids, err := n.Group.Own()
	if err != nil {
		return 0, err
	}
	for _, pid := range pids {
		status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
		if err != nil {
			continue // ended meanwhile
		}
		if isInit(string(status)) {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("node %s is off", n.Name)
}

// isInit reads the text of /proc/PID/status: process 1 of a namespace one
// level below ours. Pods' first processes are two levels below.
func isInit(status string) bool {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			ids := strings.Fields(rest)
			return len(ids) == 2 && ids[1] == "1"
		}
	}
	return false
}

// start switches the node on, up to a containerd that holds all images.
func (n *node) start(ctx context.Context) error {
	begin := time.Now()
	if err := n.startAll(ctx); err != nil {
		return fmt.Errorf("start node %s: %w", n.Name, err)
	}
	n.c.progress("%s: containerd up, images imported after %s", n.Name, time.Since(begin).Round(100*time.Millisecond))
	return nil
}

func (n *node) startAll(ctx context.Context) error {
	// What a start that was killed half-way may have left.
	if err := n.powerOff(ctx); err != nil {
		return err
	}
	n.BootID = newBootID()
	if err := n.save(); err != nil {
		return err
	}
	if err := n.makeRoot(ctx); err != nil {
		return err
	}
	if err := n.issueCertificate(); err != nil {
		return err
	}
	if err := n.Group.Create(); err != nil {
		return err
	}
	if err := n.plugIn(ctx); err != nil {
		return err
	}
	if err := n.startInit(ctx); err != nil {
		return err
	}
	if err := n.mountAll(ctx); err != nil {
		return err
	}
	if err := n.attachDisks(ctx); err != nil {
		return err
	}
	if err := n.writeConfig(); err != nil {
		return err
	}
	if err := n.startContainerd(ctx); err != nil {
		return err
	}
	return n.importImages(ctx)
}

// issueCertificate gives the node its certificate and kubeconfigs, on its
// disk. The authority must be there.
func (n *node) issueCertificate() error {
	a, err := pki.Open(n.c.path("pki"))
	if err != nil {
		return err
	}
	err = a.Issue(pki.Leaf{Name: n.Name, CommonName: "system:node:" + n.Name, Organization: "system:nodes",
		Server: true, DNSNames: []string{n.Name}, IPs: []net.IP{net.ParseIP(n.ip())}})
	if err != nil {
		return err
	}
	if err := a.Kubeconfig(n.Name, server); err != nil {
		return err
	}
	for from, to := range map[string]string{
		"ca.crt": "ca.crt", n.Name + ".crt": "node.crt", n.Name + ".key": "node.key",
		n.Name + ".kubeconfig": "kubelet.kubeconfig", "proxy.kubeconfig": "proxy.kubeconfig",
	} {
		b, err := os.ReadFile(n.c.path("pki", from))
		if err != nil {
			return err
		}
		if err := n.writeFile("etc/kubernetes/"+to, string(b), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// plugIn makes the node's network namespace and its cable to the bridge.
func (n *node) plugIn(ctx context.Context) error {
	ns, cp := n.network(), n.c.Network()
	if err := netns.Add(ctx, ns); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"ip", "link", "add", n.link(), "netns", cp, "type", "veth", "peer", "name", "eth0", "netns", ns},
		{"ip", "-n", cp, "link", "set", n.link(), "master", bridge},
		{"ip", "-n", ns, "addr", "add", n.ip() + "/24", "dev", "eth0"},
		{"ip", "-n", ns, "link", "set", "eth0", "up"},
		{"ip", "-n", ns, "route", "add", "default", "via", controlIP},
		{"nsenter", "--net=" + netns.Path(ns), "sysctl", "-qw", "net.ipv4.ip_forward=1"},
	} {
		if err := command.Run(ctx, argv...); err != nil {
			return err
		}
	}
	if n.Cut {
		return nil
	}
	return command.Run(ctx, "ip", "-n", cp, "link", "set", n.link(), "up")
}

// startInit makes the node's namespaces with its process 1 in them.
func (n *node) startInit(ctx context.Context) error {
	r, err := n.c.load()
	if err != nil {
		return err
	}
	log, err := openLog(n.path("log", "boot.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("setsid", "--fork", "nsenter", "--net="+netns.Path(n.network()), "--",
		"unshare", "--mount", "--uts", "--ipc", "--cgroup", "--pid", "--fork", "--kill-child", "--propagation", "private",
		filepath.Join(r.Bin, "pause"))
	if err := runIn(n.Group, cmd, log); err != nil {
		return err
	}
	wait, cancel := context.WithTimeoutCause(ctx, 20*time.Second, fmt.Errorf("no process 1; see %s", log.Name()))
	defer cancel()
	if err := poll(wait, 10*time.Millisecond, func() (bool, error) { return n.running(), nil }); err != nil {
		return err
	}
	return n.Group.Delegate()
}

// startContainerd starts containerd and returns when it answers.
func (n *node) startContainerd(ctx context.Context) error {
	if err := n.daemon("containerd", "-c", "/etc/containerd/iomesh.toml"); err != nil {
		return err
	}
	wait, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("containerd does not answer; see %s", n.path("log", "containerd.log")))
	defer cancel()
	return poll(wait, 100*time.Millisecond, func() (bool, error) { return n.run(wait, "ctr", "version") == nil, nil })
}

// startKubelet makes the node join the cluster.
func (n *node) startKubelet(ctx context.Context) error {
	// Wherever the API server keeps an older boot of it, it registers anew.
	if err := n.daemon("kubelet", "--config", "/etc/kubernetes/kubelet.yaml", "--kubeconfig", "/etc/kubernetes/kubelet.kubeconfig",
		"--hostname-override", n.Name, "--node-ip", n.ip(), "--root-dir", "/var/lib/kubelet", "--v=2"); err != nil {
		return err
	}
	return n.daemon("kube-proxy", "--config", "/etc/kubernetes/proxy.yaml", "--v=1")
}

// routes lets every namespace reach the pods of every node.
func (c *Cluster) routes(ctx context.Context) error {
	nodes, err := c.nodes()
	if err != nil {
		return err
	}
	for _, to := range nodes {
		route := func(ns string) error {
			return command.Run(ctx, "ip", "-n", ns, "route", "replace", to.podCIDR(), "via", to.ip())
		}
		if err := route(c.Network()); err != nil {
			return err
		}
		for _, from := range nodes {
			if from.Index == to.Index || !netns.Exists(from.network()) {
				continue
			}
			if err := route(from.network()); err != nil {
				return err
			}
		}
	}
	return nil
}

// newBootID returns a random UUID as /proc/sys/kernel/random/boot_id has one.
func newBootID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	h := hex.EncodeToString(b[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
