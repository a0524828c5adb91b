package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/iomesh/iomesh/csi/crash"
	"github.com/iomesh/iomesh/csi/node"
	"github.com/iomesh/iomesh/csi/node/iscsi"
	"github.com/iomesh/iomesh/csi/node/mode"
	"github.com/iomesh/iomesh/csi/node/userspace"
	"github.com/iomesh/iomesh/csi/nodename"
	"github.com/iomesh/iomesh/csi/registration"
	"github.com/iomesh/iomesh/csi/rpc"
)

// sweepTimeout bounds the search for leftovers at the start.
const sweepTimeout = 30 * time.Second

type nodeFlags struct {
	common
	node, attach, attachSocket, kubeletDir, stateDir, portal, hostProc string
	volumesMax                                                         int64
}

func nodeCommand() *cobra.Command {
	var n nodeFlags
	cmd := &cobra.Command{
		Use: "node", Short: "Attaches, mounts and grows the volumes of one node", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return n.run(cmd.Context()) },
	}
	n.register(cmd, "", ":9811")
	f := cmd.Flags()
	f.Lookup("endpoint").Usage = "unix socket to serve CSI on (default <kubelet-dir>/plugins/<driver-name>/csi.sock)"
	f.StringVar(&n.node, "node", os.Getenv("NODE_NAME"), "name of this Kubernetes node (env NODE_NAME)")
	f.StringVar(&n.attach, "attach", string(mode.Auto), "how volumes are attached: iscsi (the host's kernel initiator), userspace (iomesh-attach), or auto")
	f.StringVar(&n.attachSocket, "attach-socket", "/run/iomesh/attach.sock", "socket of iomesh-attach")
	f.StringVar(&n.kubeletDir, "kubelet-dir", "/var/lib/kubelet", "kubelet's root directory")
	f.StringVar(&n.stateDir, "state-dir", "/run/iomesh/csi", "directory for what this node knows of its volumes; has to vanish at a boot")
	f.StringVar(&n.portal, "portal", "127.0.0.1:3260", `this node's login redirector, asked before the volume's own portals; "" for none`)
	f.StringVar(&n.hostProc, "host-proc", "", "the host's /proc (default /host/proc if there, else /proc)")
	f.Int64Var(&n.volumesMax, "volumes-max", 128, "most volumes on this node; 0 = no limit")
	return cmd
}

func (n *nodeFlags) run(ctx context.Context) error {
	wish, err := mode.Parse(n.attach)
	if err != nil {
		return err
	}
	if n.node == "" {
		return errors.New("--node is missing (or NODE_NAME in the environment)")
	}
	if n.volumesMax < 0 {
		return fmt.Errorf("--volumes-max=%d: want 0 or more", n.volumesMax)
	}
	n.endpoint = cmp.Or(n.endpoint, filepath.Join(pluginDir(n.kubeletDir, n.driver), "csi.sock"))
	if n.hostProc == "" {
		n.hostProc = "/proc"
		if _, err := os.Stat("/host/proc/1"); err == nil {
			n.hostProc = "/host/proc"
		}
	}
	initiator, err := nodename.Initiator(n.node)
	if err != nil {
		return err
	}
	log, client, err := n.open()
	if err != nil {
		return err
	}
	defer client.Close()
	log = log.With("node", n.node)
	klog.SetSlogLogger(log) // what the mount library says

	decision := mode.Decide(wish, mode.Linux{Root: filepath.Join(n.hostProc, "1/root")})
	log.Info("how volumes are attached", "mode", decision.Mode, "reason", decision.Reason, "checked", decision.Checked)
	if err := decision.Write(filepath.Join(n.stateDir, "attach-mode.json")); err != nil {
		return err
	}
	user, err := userspace.New(n.attachSocket)
	if err != nil {
		return err
	}
	defer user.Close()
	attachers := node.Attachers{mode.Userspace: user}
	if decision.Mode == mode.ISCSI {
		if attachers[mode.ISCSI], err = iscsi.New(iscsi.Options{HostProc: n.hostProc, Initiator: initiator, Log: log}); err != nil {
			return err
		}
	}
	step, err := crash.At(os.Getenv(crash.Env), node.Steps(), n.stateDir, os.Exit, log)
	if err != nil {
		return err
	}
	service, err := node.New(node.Options{
		Node: n.node, Mode: decision.Mode, Attachers: attachers, Grants: client, ClusterID: client.ClusterID,
		StateDir: filepath.Join(n.stateDir, "volumes"), Portal: n.portal, VolumesMax: n.volumesMax, Log: log, Step: step,
	})
	if err != nil {
		return err
	}
	sweep, cancel := context.WithTimeout(ctx, sweepTimeout)
	service.Sweep(sweep)
	cancel()

	reg := &registration.Server{Name: n.driver, Endpoint: strings.TrimPrefix(n.endpoint, "unix://"), Log: log}
	return n.serve(ctx, log, func(s rpc.Server) { csipb.RegisterNodeServer(s, service) }, func(ctx context.Context) error {
		return reg.Serve(ctx, registration.Socket(n.kubeletDir, n.driver))
	})
}
