package dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/iomesh/iomesh/internal/diskdir"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/storaged/block"
)

// Control is DIR/control.json.
type Control struct {
	// Meta are the control addresses (gRPC, host:port).
	Meta []string `json:"meta"`
	// TLSDir holds credentials of role admin.
	TLSDir string `json:"tlsDir"`
	// Portal accepts logins for every volume.
	Portal string `json:"portal"`

	ClusterID string `json:"clusterID"`
	Members   string `json:"members"`
	Nodes     []Node `json:"nodes"`
	// MetaMetrics and RedirectMetrics are host:port of /metrics; "" in directories of earlier versions: none.
	MetaMetrics     string `json:"metaMetrics,omitempty"`
	RedirectMetrics string `json:"redirectMetrics,omitempty"`
	// PID of `storaged dev`.
	PID int `json:"pid"`
}

// Node is one chunk of the development cluster.
type Node struct {
	Name    string `json:"name"`
	Control string `json:"control"`
	Data    string `json:"data"`
	ISCSI   string `json:"iscsi"`
	Metrics string `json:"metrics"`
}

const controlFile = "control.json"

// ReadControl reads DIR/control.json.
func ReadControl(dir string) (Control, error) {
	var c Control
	b, err := os.ReadFile(filepath.Join(dir, controlFile))
	if err != nil {
		return c, fmt.Errorf("no development cluster in %s: %w", dir, err)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("%s: %w", filepath.Join(dir, controlFile), err)
	}
	return c, nil
}

func (c Control) write(dir string) error {
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(dir, controlFile+".new")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(dir, controlFile))
}

// prepare makes or completes the directory: credentials, ports, disks.
func prepare(o Options) (Control, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return Control{}, fmt.Errorf("directory %s: %w", o.Dir, err)
	}
	c, err := ReadControl(o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		c, err = newControl(o)
	}
	if err != nil {
		return c, err
	}
	if len(c.Nodes) != o.Chunks {
		return c, fmt.Errorf("directory %s holds a cluster of %d chunks, not %d: use another directory or --chunks %d", o.Dir, len(c.Nodes), o.Chunks, len(c.Nodes))
	}
	c.PID = os.Getpid()
	if err := issue(o.Dir, c.ClusterID); err != nil {
		return c, err
	}
	for _, n := range c.Nodes {
		if err := makeDisks(o, n.Name); err != nil {
			return c, err
		}
	}
	return c, c.write(o.Dir)
}

func newControl(o Options) (Control, error) {
	n := 3 + 1 + 4*o.Chunks + 2
	ports, err := freePorts(n)
	if err != nil {
		return Control{}, err
	}
	next := func() string {
		p := ports[0]
		ports = ports[1:]
		return fmt.Sprintf("127.0.0.1:%d", p)
	}
	c := Control{TLSDir: filepath.Join(o.Dir, "tls", "admin"), ClusterID: block.NewClusterID().String(),
		Members: fmt.Sprintf("m1=127.0.0.1:%d:%d:%d", ports[0], ports[1], ports[2]), Meta: []string{fmt.Sprintf("127.0.0.1:%d", ports[0])}}
	ports = ports[3:]
	c.Portal = next()
	for i := range o.Chunks {
		c.Nodes = append(c.Nodes, Node{Name: fmt.Sprintf("n%d", i+1), Control: next(), Data: next(), ISCSI: next(), Metrics: next()})
	}
	c.MetaMetrics, c.RedirectMetrics = next(), next()
	return c, nil
}

// freePorts returns n different ports nobody listens on now.
func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		// Held until all are found, so that they differ.
		defer ln.Close()
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// issue makes the certificates of all roles, with a new authority each time: nothing but this cluster trusts them.
func issue(dir, cluster string) error {
	ca, err := mtls.NewAuthority(cluster, 10*365*24*time.Hour)
	if err != nil {
		return err
	}
	return ca.IssueAll(filepath.Join(dir, "tls"), []string{"127.0.0.1", "localhost"}, 10*365*24*time.Hour)
}

// makeDisks makes the files and the disk directory of a node.
func makeDisks(o Options, node string) error {
	base := filepath.Join(o.Dir, "nodes", node)
	for i := range o.Disks {
		name := fmt.Sprintf("disk%d", i)
		path := filepath.Join(base, "data", name+".img")
		if err := makeDisk(path, o.DiskBytes, o.Prewrite); err != nil {
			return err
		}
		e := diskdir.Entry{Name: name, Device: path, MountType: "dataStoreWithJournal", SizeBytes: o.DiskBytes, Format: true,
			Identity: diskdir.Identity{Serial: node + "-" + name}}
		if err := diskdir.WriteEntry(filepath.Join(base, "disks"), e); err != nil {
			return err
		}
	}
	return nil
}

func makeDisk(path string, size int64, prewrite bool) error {
	if st, err := os.Stat(path); err == nil {
		if st.Size() != size {
			return fmt.Errorf("disk %s has %d bytes, not %d: use another directory or the old size", path, st.Size(), size)
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path+".new", os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	if prewrite {
		// Written, not only allocated: a write into an unwritten extent of a file also commits metadata of the filesystem.
		zeros := make([]byte, 4<<20)
		for off := int64(0); off < size; off += int64(len(zeros)) {
			if _, err := f.WriteAt(zeros[:min(int64(len(zeros)), size-off)], off); err != nil {
				return fmt.Errorf("disk %s: %w", path, err)
			}
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("disk %s: %w", path, err)
	}
	return os.Rename(path+".new", path)
}
