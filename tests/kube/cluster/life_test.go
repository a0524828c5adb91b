//go:build e2e

package cluster_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/iomesh/iomesh/tests/kube/cgroup"
	"github.com/iomesh/iomesh/tests/kube/cluster"
	"github.com/iomesh/iomesh/tests/kube/connect"
	"github.com/iomesh/iomesh/tests/kube/loopdev"
	"github.com/iomesh/iomesh/tests/kube/netns"
)

// serveVariable makes this test binary a FUSE server, to be run on a node: it
// shows the directory it names at the mount point that follows.
const serveVariable = "KUBELAB_TEST_SERVE"

func TestMain(m *testing.M) {
	if dirs := os.Getenv(serveVariable); dirs != "" {
		from, at, _ := strings.Cut(dirs, ":")
		root, err := fs.NewLoopbackRoot(from)
		if err != nil {
			panic(err)
		}
		server, err := fs.Mount(at, root, &fs.Options{MountOptions: fuse.MountOptions{DirectMount: true}})
		if err != nil {
			panic(err)
		}
		server.Wait()
		return
	}
	os.Exit(m.Run())
}

const webPod = `apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  nodeName: n2
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers:
  - name: web
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-1
    command: [sh, -c, "mkdir /w; echo served > /w/index.html; exec httpd -f -p 8080 -h /w"]
    readinessProbe: {httpGet: {port: 8080}, periodSeconds: 1}
`

// newCluster opens a cluster in a directory of its own with a short name, and
// takes it down at the end.
func newCluster(t *testing.T) (*cluster.Cluster, string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	dir, err := os.MkdirTemp("/tmp", "kubelab-")
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	c, err := cluster.Open(cluster.Options{Dir: dir, Progress: func(format string, args ...any) {
		t.Logf("%6.1fs  "+format, append([]any{time.Since(start).Seconds()}, args...)...)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Down(context.Background(), true); err != nil {
			t.Error(err)
		}
	})
	return c, dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// timed logs how long a step of the story took.
func timed(t *testing.T, what string, f func() error) {
	t.Helper()
	start := time.Now()
	must(t, f())
	t.Logf("%s: %.1fs", what, time.Since(start).Seconds())
}

// kubectl runs kubectl from outside the cluster's network, as a user would.
func kubectl(t *testing.T, c *cluster.Cluster, stdin string, args ...string) string {
	t.Helper()
	bin, err := c.Bin()
	must(t, err)
	argv := append(append(c.Enter(), filepath.Join(bin, "kubectl"), "--kubeconfig", c.Kubeconfig()), args...)
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// attached returns which of the loop devices are still attached to a file of
// the base name given for them. Others on the machine may come and go.
func attached(t *testing.T, devices map[string]string) []string {
	t.Helper()
	all, err := loopdev.List()
	must(t, err)
	var found []string
	for _, d := range all {
		if base, ok := devices[d.Path]; ok && filepath.Base(d.BackingPath) == base {
			found = append(found, d.Path)
		}
	}
	return found
}

// The whole life of a cluster in one story, as starting one costs 15 s.
func TestClusterLife(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	c, dir := newCluster(t)
	timed(t, "up", func() error { return c.Up(ctx, 3) })

	config, err := connect.Config(c.Kubeconfig(), c.Network())
	must(t, err)
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	must(t, err)
	if len(nodes.Items) != 3 {
		t.Fatalf("%d nodes", len(nodes.Items))
	}
	kubectl(t, c, webPod, "apply", "-f", "-")
	kubectl(t, c, "", "wait", "--for=condition=Ready", "--timeout=60s", "pod/web")
	podIP := kubectl(t, c, "", "get", "pod", "web", "-o", "jsonpath={.status.podIP}")
	if out, err := c.Exec(ctx, "n1", "bash", "-c", "exec 3<>/dev/tcp/"+podIP+"/8080; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"); err != nil || !strings.Contains(out, "served") {
		t.Errorf("from n1 the pod on n2 answers %q, %v", out, err)
	}

	t.Run("power off loses what memory held, keeps the disks", func(t *testing.T) {
		disks, err := c.MakeDisks(ctx, "n2", 2, 16<<20)
		must(t, err)
		exec := func(argv ...string) string {
			t.Helper()
			out, err := c.Exec(ctx, "n2", argv...)
			must(t, err)
			return strings.TrimSpace(out)
		}
		exec("sh", "-c", "echo survives | dd of="+disks[1].Device+" bs=512 seek=9 conv=sync oflag=direct 2>/dev/null")
		if sector := exec("blockdev", "--getss", disks[0].Device); sector != "512" {
			t.Errorf("sector size %s", sector)
		}
		// A file in memory, and a file behind a FUSE server of the node, with
		// a second loop on top as kubelet does it.
		memory := exec("sh", "-c", "truncate -s 1M /run/in-memory && losetup --find --show /run/in-memory")
		serveFuse(t, c, dir)
		over := exec("losetup", "--find", "--show", "--direct-io=on", "/mnt/fuse/volume")
		overOver := exec("losetup", "--find", "--show", over)
		devices := map[string]string{
			disks[0].Device: "n2-disk0.img", disks[1].Device: "n2-disk1.img",
			memory: "in-memory", over: "volume", overOver: filepath.Base(over),
		}
		exec("sh", "-c", "echo kept > /var/lib/iomesh/file; echo lost > /run/file; cat /proc/sys/kernel/random/boot_id > /var/lib/iomesh/boot")
		if got := attached(t, devices); len(got) != 5 {
			t.Fatalf("attached are %v, want all of %v", got, devices)
		}
		timed(t, "freeze before power off", func() error { return c.Freeze(ctx, "n2") })
		if _, err := c.Exec(ctx, "n2", "true"); !errors.Is(err, cgroup.ErrFrozen) {
			t.Errorf("a frozen node runs a command: %v", err)
		}
		timed(t, "power off", func() error { return c.PowerOff(ctx, "n2") })
		if got := attached(t, devices); len(got) > 0 {
			t.Errorf("still attached: %v of %v", got, devices)
		}
		if _, err := c.Exec(ctx, "n2", "true"); err == nil {
			t.Error("a node that is off runs a command")
		}
		timed(t, "not Ready", func() error { return c.WaitNotReady(ctx, "n2") })
		timed(t, "boot", func() error { return c.Boot(ctx, "n2") })
		disks, err = c.Disks("n2")
		must(t, err)
		if got := exec("sh", "-c", "dd if="+disks[1].Device+" bs=512 skip=9 count=1 iflag=direct 2>/dev/null | tr -d '\\0'"); got != "survives" {
			t.Errorf("disk holds %q", got)
		}
		if got := exec("sh", "-c", "cat /var/lib/iomesh/file; test -e /run/file && echo and /run; cmp -s /var/lib/iomesh/boot /proc/sys/kernel/random/boot_id && echo same boot; true"); got != "kept" {
			t.Errorf("after the boot: %q", got)
		}
		kubectl(t, c, "", "wait", "--for=condition=Ready", "--timeout=90s", "pod/web")
	})

	t.Run("a disk is replaced by an empty one", func(t *testing.T) {
		fresh, err := c.ReplaceDisk(ctx, "n2", "/data/disks/n2-disk1.img")
		must(t, err)
		out, err := c.Exec(ctx, "n2", "sh", "-c", "tr -d '\\0' < "+fresh.Device)
		if err != nil || out != "" {
			t.Errorf("the new disk holds %q, %v", out, err)
		}
		if _, err := c.ReplaceDisk(ctx, "n2", "/data/disks/none"); err == nil || !strings.Contains(err.Error(), "n2-disk0.img") {
			t.Errorf("a disk that is not there: %v", err)
		}
	})

	t.Run("freeze and thaw", func(t *testing.T) {
		must(t, c.Freeze(ctx, "n3"))
		timed(t, "not Ready", func() error { return c.WaitNotReady(ctx, "n3") })
		must(t, c.Thaw(ctx, "n3"))
		timed(t, "Ready again", func() error { return c.WaitReady(ctx, "n3") })
	})

	dial := func(from, to string) error {
		_, err := c.Exec(ctx, from, "timeout", "3", "bash", "-c", "exec 3<>/dev/tcp/"+to)
		return err
	}
	t.Run("a cut cable stops all traffic until it is healed", func(t *testing.T) {
		must(t, dial("n1", "10.89.0.13/10250"))
		must(t, c.CutNetwork(ctx, "n3"))
		if dial("n1", "10.89.0.13/10250") == nil {
			t.Error("n1 reaches n3 over a cut cable")
		}
		timed(t, "not Ready", func() error { return c.WaitNotReady(ctx, "n3") })
		must(t, c.HealNetwork(ctx, "n3"))
		timed(t, "Ready again", func() error { return c.WaitReady(ctx, "n3") })
		must(t, dial("n1", "10.89.0.13/10250"))
	})

	t.Run("cut from the API server only, nodes still talk", func(t *testing.T) {
		must(t, c.CutAPI(ctx, "n3"))
		if dial("n3", "10.89.0.1/6443") == nil {
			t.Error("n3 reaches the API server")
		}
		must(t, dial("n1", "10.89.0.13/10250"))
		timed(t, "not Ready", func() error { return c.WaitNotReady(ctx, "n3") })
		must(t, c.HealAPI(ctx, "n3"))
		must(t, c.HealAPI(ctx, "n3")) // once more is no error
		timed(t, "Ready again", func() error { return c.WaitReady(ctx, "n3") })
	})

	t.Run("a node is added", func(t *testing.T) {
		timed(t, "add node", func() error {
			name, err := c.AddNode(ctx)
			if name != "n4" {
				t.Errorf("it is called %q", name)
			}
			return err
		})
		// Not the address from before: the pod got a new one when n2 booted.
		podIP := kubectl(t, c, "", "get", "pod", "web", "-o", "jsonpath={.status.podIP}")
		must(t, dial("n4", podIP+"/8080"))
	})

	t.Run("down without purge, up resumes", func(t *testing.T) {
		timed(t, "down", func() error { return c.Down(ctx, false) })
		nothingLeft(t, dir)
		disks, err := c.Disks("n2")
		must(t, err)
		for _, d := range disks {
			if d.Device != "" {
				t.Errorf("disk %+v is attached with the cluster down", d)
			}
		}
		timed(t, "up again", func() error { return c.Up(ctx, 3) })
		kubectl(t, c, "", "wait", "--for=condition=Ready", "--timeout=90s", "pod/web")
	})
	timed(t, "down and purge", func() error { return c.Down(ctx, true) })
	nothingLeft(t, dir)
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is still there", dir)
	}
}

// serveFuse runs this binary on n2 as a FUSE server of /data at /mnt/fuse.
func serveFuse(t *testing.T, c *cluster.Cluster, dir string) {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "nodes/n2/root/opt/iomesh/serve"), self, 0o755))
	_, err = c.Exec(t.Context(), "n2", "sh", "-c", `mkdir -p /data/served /mnt/fuse && truncate -s 4M /data/served/volume &&
		`+serveVariable+`=/data/served:/mnt/fuse setsid --fork /opt/iomesh/serve >/tmp/serve.log 2>&1 &&
		for i in $(seq 100); do mountpoint -q /mnt/fuse && exit 0; sleep 0.1; done; cat /tmp/serve.log >&2; exit 1`)
	must(t, err)
}

// nothingLeft checks that no trace of the cluster is left on the machine.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	prefix := netns.Name(netns.ClusterID(dir), "")
	if names, err := netns.List(prefix); err != nil || len(names) > 0 {
		t.Errorf("network namespaces %v, %v", names, err)
	}
	group, err := cgroup.Plan(prefix)
	must(t, err)
	for _, d := range group.Dirs {
		if found, err := filepath.Glob(d + "*"); err != nil || len(found) > 0 {
			t.Errorf("control groups %v, %v", found, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	if strings.Contains(string(mounts), dir) {
		t.Error("mounts are left")
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, p := range processes {
		if line, err := os.ReadFile(p); err == nil && strings.Contains(string(line), dir+"/") {
			t.Errorf("process %s: %q", p, line)
		}
	}
}

func TestDownClearsAwayAnUpThatWasInterrupted(t *testing.T) {
	for _, at := range []string{"containerd up", "API server ready"} {
		t.Run("at "+at, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			_, dir := newCluster(t)
			c, err := cluster.Open(cluster.Options{Dir: dir, Progress: func(format string, _ ...any) {
				if strings.Contains(format, at) {
					cancel()
				}
			}})
			must(t, err)
			if err := c.Up(ctx, 2); err == nil {
				t.Fatal("up was not interrupted")
			}
			must(t, c.Down(t.Context(), true))
			nothingLeft(t, dir)
		})
	}
}
