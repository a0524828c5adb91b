package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/mtls"
)

// NewDemoCommand is `storaged demo`: a cluster of processes, a LUN, I/O, the owner killed, everything checked.
func NewDemoCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the block service at work: kill the owner under I/O and check every byte",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if dir == "" {
				tmp, err := os.MkdirTemp("", "iomesh-demo-")
				if err != nil {
					return err
				}
				defer os.RemoveAll(tmp)
				dir = tmp
			}
			return demo(cmd.Context(), dir, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "directory for the cluster's files (default: a temporary one, removed afterwards)")
	return cmd
}

// story prints steps with the time they took.
type story struct {
	out   io.Writer
	start time.Time
}

func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%6.1fs  %s\n", time.Since(s.start).Seconds(), fmt.Sprintf(format, args...))
}

func demo(ctx context.Context, dir string, out io.Writer) error {
	s := &story{out: out, start: time.Now()}
	const sizeBytes = 256 << 20
	s.say("$ storaged dev --dir %s --chunks 3 --disks 1 --disk-size 1Gi --processes", dir)
	c, stop, err := Start(ctx, Options{Dir: dir, Chunks: 3, Disks: 1, DiskBytes: 1 << 30, Processes: true, RestartAfter: 3 * time.Second,
		RepairDelay: 10 * time.Minute, Out: io.Discard})
	if err != nil {
		return err
	}
	defer stop()
	s.say("meta, three chunks with a disk each and a login redirector run; portal %s", c.Portal)

	src, err := mtls.Load(c.TLSDir)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient(c.Meta[0], grpc.WithTransportCredentials(src.ClientCredentials(mtls.RoleMeta)))
	if err != nil {
		return err
	}
	defer conn.Close()
	volumes, cluster := storagedv1.NewVolumesClient(conn), storagedv1.NewClusterClient(conn)

	s.say("$ storaged ctl --dir %s volume create demo --size 256Mi --replicas 3", dir)
	v, err := volumes.CreateVolume(ctx, &storagedv1.CreateVolumeRequest{Name: "demo", SizeBytes: sizeBytes, ReplicaFactor: 3})
	if err != nil {
		return fmt.Errorf("create a volume: %w", err)
	}
	if _, err := volumes.PublishVolume(ctx, &storagedv1.PublishVolumeRequest{VolumeId: v.Id, Initiator: "*", Mode: storagedv1.AccessMode_ACCESS_MODE_SHARED, NoAuth: true}); err != nil {
		return fmt.Errorf("publish the volume: %w", err)
	}
	s.say("volume %s: LUN %d of %s, owned by %s", v.Id, v.Lun, v.Iqn, v.OwnerNode)

	sess, err := initiator.Dial(ctx, initiator.Options{Portals: []string{c.Portal}, Target: v.Iqn, Initiator: "iqn.2016-02.com.iomesh:demo"})
	if err != nil {
		return fmt.Errorf("log in at %s: %w", c.Portal, err)
	}
	defer sess.Close()
	w := newWorkload(sess, sizeBytes)
	s.say("logged in through the redirector; 16 workers write 4 KiB blocks, each acknowledged when durable on all three disks")
	load, end := context.WithCancel(ctx)
	defer end()
	wait := w.run(load, 16)
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	before := w.writes.Load()
	s.say("%d writes acknowledged, slowest %s", before, time.Duration(w.slowest.Swap(0)).Round(time.Millisecond))

	if v, err = volumes.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: v.Id}); err != nil {
		return err
	}
	pid, err := pidOf(ctx, cluster, v.OwnerNode)
	if err != nil {
		return err
	}
	s.say("$ kill -9 %d      # the owner, chunk of node %s", pid, v.OwnerNode)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill the owner: %w", err)
	}
	if err := pause(ctx, 5*time.Second); err != nil {
		return err
	}
	after, err := volumes.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: v.Id})
	if err != nil {
		return err
	}
	s.say("owner is now %s (epoch %d → %d); longest stall of a write %s; %d more writes acknowledged", after.OwnerNode, v.Epoch, after.Epoch,
		time.Duration(w.slowest.Load()).Round(10*time.Millisecond), w.writes.Load()-before)
	if after.Epoch == v.Epoch {
		return errors.New("the ownership did not move")
	}
	s.say("the killed chunk is back and gets what it missed")
	if err := awaitHealthy(ctx, s, volumes, v.Id); err != nil {
		return err
	}
	end()
	if err := wait(); err != nil {
		return fmt.Errorf("an I/O error reached the initiator: %w", err)
	}
	n, err := w.check(ctx)
	if err != nil {
		return fmt.Errorf("VERIFICATION FAILED: %w", err)
	}
	s.say("%d writes in all, %d blocks read back: every acknowledged byte is there; I/O errors at the initiator: 0", w.writes.Load(), n)
	return nil
}

// awaitHealthy shows the resync until every replica is in sync.
func awaitHealthy(ctx context.Context, s *story, volumes storagedv1.VolumesClient, id string) error {
	last := ""
	for range 600 {
		v, err := volumes.GetVolume(ctx, &storagedv1.GetVolumeRequest{Id: id, Extents: true})
		if err == nil {
			if v.Status.GetHealth() == storagedv1.Health_HEALTH_OK {
				s.say("volume healthy: all three replicas in sync, %.1f MiB copied", float64(v.Status.GetResyncBytesDone())/(1<<20))
				return nil
			}
			if line := fmt.Sprintf("volume %s: %s", healthWord(v.Status.GetHealth()), v.Status.GetReason()); line != last {
				last = line
				s.say("%s", line)
			}
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return fmt.Errorf("the volume is not healthy after 60 s: %s", last)
}

func healthWord(h storagedv1.Health) string {
	switch h {
	case storagedv1.Health_HEALTH_OK:
		return "OK"
	case storagedv1.Health_HEALTH_DEGRADED:
		return "Degraded"
	case storagedv1.Health_HEALTH_AT_RISK:
		return "At risk"
	case storagedv1.Health_HEALTH_UNAVAILABLE:
		return "Unavailable"
	}
	return "not known yet"
}

func pidOf(ctx context.Context, cluster storagedv1.ClusterClient, node string) (int, error) {
	st, err := cluster.GetStatus(ctx, &storagedv1.GetStatusRequest{})
	if err != nil {
		return 0, fmt.Errorf("status: %w", err)
	}
	for _, n := range st.Nodes {
		if n.Name == node && n.Pid > 1 {
			return int(n.Pid), nil
		}
	}
	return 0, fmt.Errorf("no process of node %s in the status", node)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
