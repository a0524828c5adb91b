package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/iomesh/iomesh/csi/controller"
	"github.com/iomesh/iomesh/csi/meta"
	"github.com/iomesh/iomesh/csi/nodename"
	"github.com/iomesh/iomesh/internal/mtls"
)

type options struct {
	image, storaged, csi, guest, dir string
	quick                            bool
}

func main() {
	var o options
	flag.StringVar(&o.image, "image", "", "directory of the virtual machine's image (hack/vm-image.sh)")
	flag.StringVar(&o.storaged, "storaged", "", "the program storaged")
	flag.StringVar(&o.csi, "csi", "", "the program iomesh-csi")
	flag.StringVar(&o.guest, "guest", "", "the program of tests/vm/guest")
	flag.StringVar(&o.dir, "dir", "", "directory for disks and logs; kept")
	flag.BoolVar(&o.quick, "quick", false, "freeze and cut for 15 s instead of 60 s and 100 s")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "e2e-vm: FAILED:", err)
		os.Exit(1)
	}
	fmt.Println("e2e-vm: passed")
}

// world is everything a step needs.
type world struct {
	options
	cluster    *cluster
	machine    *machine
	controller *controller.Service
	node       csipb.NodeClient
	nodeID     string
	report     report
}

func run(ctx context.Context, o options) (err error) {
	if err := setUpNetwork(); err != nil {
		return err
	}
	say("three chunks and a metadata member start")
	c, err := startCluster(ctx, o.dir, o.storaged)
	if c != nil {
		defer c.close()
	}
	if err != nil {
		return err
	}
	payload := filepath.Join(o.dir, "payload.tar")
	programs := map[string]string{"guest": o.guest, "storaged": o.storaged, "iomesh-csi": o.csi}
	if err := writePayload(payload, programs, c.tls(mtls.RoleNode)); err != nil {
		return err
	}
	say("the virtual machine boots")
	m, err := startMachine(ctx, o.image, payload, filepath.Join(o.dir, "console.log"))
	if m != nil {
		defer m.off()
	}
	if err != nil {
		return err
	}
	kernel, err := m.exec(10, "uname", "-r")
	if err != nil {
		return err
	}
	say("kernel %.40q answers after %s", kernel, m.booted.Round(time.Second))

	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	client, err := meta.Dial(meta.Options{Endpoints: []string{metaAddress + ":10100"}, Credentials: meta.NewCredentials(c.tls(mtls.RoleController)), Log: log})
	if err != nil {
		return err
	}
	defer client.Close()
	conn, err := grpc.NewClient("10.77.0.2:7000", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	nodeID, err := nodename.Initiator("vm1")
	if err != nil {
		return err
	}
	w := &world{options: o, cluster: c, machine: m, nodeID: nodeID, node: csipb.NewNodeClient(conn),
		controller: &controller.Service{Store: client, Pool: client.Cluster, ClusterID: client.ClusterID, Log: log}}
	if err := poll(ctx, 2*time.Minute, "the node plugin answers", func() bool {
		_, err := w.node.NodeGetInfo(ctx, &csipb.NodeGetInfoRequest{})
		return err == nil
	}); err != nil {
		return err
	}
	err = w.story(ctx)
	w.report.print()
	return errors.Join(err, w.kernelLog())
}

func say(format string, args ...any) {
	fmt.Printf("%s  %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}
