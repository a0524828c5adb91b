package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/iscsi/initiator"
	"github.com/iomesh/iomesh/internal/mtls"
	"github.com/iomesh/iomesh/internal/rpc"
	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/store/vdisk"
	"github.com/iomesh/iomesh/tests/faultfs"
	"github.com/iomesh/iomesh/tests/faults/cluster"
)

// fault is one row of the matrix.
type fault struct {
	name string
	// inject breaks something and returns what mends it; vars are named by it for cause.
	inject func(ctx context.Context) (mend func() error, err error)
	// cause is the finding that `why` must name first: code and object; "*" any object.
	cause, object string
	// alerts fire, exactly; may are allowed besides, where it depends on the moment.
	alerts, may []string
}

// Sets of alerts that come together.
var (
	oneNode = []string{"NodeOffline", "VolumeAtRisk"}
	// What a fault may bring about for a moment, depending on when it hits: a copy under way, a login tried anew, an extent taken over just then.
	passing = []string{"Recovering", "RedirectorBlind", "VolumeSlow", "HighLatency"}
)

func (o *observer) faults() []fault {
	kill := func(p func() *cluster.Process) func(context.Context) (func() error, error) {
		return func(context.Context) (func() error, error) {
			x := p()
			return x.Start, x.Kill()
		}
	}
	freeze := func(p func() *cluster.Process) func(context.Context) (func() error, error) {
		return func(context.Context) (func() error, error) {
			x := p()
			return func() error { return x.Signal(syscall.SIGCONT) }, x.Signal(syscall.SIGSTOP)
		}
	}
	chunk := func(name string) func() *cluster.Process {
		return func() *cluster.Process { return o.c.Node(name).Chunk }
	}
	owner := func() *cluster.Process { return o.c.Node(o.owner()).Chunk }
	leader := func() *cluster.Process { return o.c.Node(o.leader()).Meta }
	follower := func() *cluster.Process { return o.c.Node(o.followers()[0]).Meta }
	return []fault{
		{"chunk killed", kill(chunk("n1")), "NodeOffline", "n1", oneNode, nil},
		{"chunk frozen", freeze(chunk("n2")), "NodeOffline", "n2", oneNode, nil},
		{"owner's chunk killed", kill(owner), "NodeOffline", "*", oneNode, []string{"VolumeUnavailable"}},
		{"owner's chunk frozen", freeze(owner), "NodeOffline", "*", oneNode, []string{"VolumeUnavailable"}},
		{"two chunks killed", both(kill(chunk("n1")), kill(chunk("n3"))), "NodeOffline", "*", []string{"NodeOffline", "VolumeUnavailable"}, []string{"VolumeAtRisk", "CommandsFailing"}},
		{"all chunks frozen", both(freeze(chunk("n1")), freeze(chunk("n2")), freeze(chunk("n3"))), "NodeOffline", "*", []string{"NodeOffline", "VolumeUnavailable"}, []string{"CommandsFailing"}},
		{"redirector killed", kill(func() *cluster.Process { return o.c.Redirect }), "ComponentDown", "redirect", []string{"ComponentDown"}, nil},
		{"redirector frozen", freeze(func() *cluster.Process { return o.c.Redirect }), "ComponentDown", "redirect", []string{"ComponentDown"}, nil},
		{"metadata follower killed", kill(follower), "MetaMemberDown", "*", []string{"MetaMemberDown"}, nil},
		{"metadata follower frozen", freeze(follower), "MetaMemberDown", "*", []string{"MetaMemberDown"}, nil},
		{"metadata leader killed", kill(leader), "MetaMemberDown", "*", []string{"MetaMemberDown"}, nil},
		{"metadata leader frozen", freeze(leader), "MetaMemberDown", "*", []string{"MetaMemberDown"}, nil},
		{"majority of metadata killed", o.metas(2), "MetadataSilent", "", []string{"MetadataSilent"}, nil},
		{"all metadata killed", o.metas(3), "MetadataSilent", "", []string{"MetadataSilent"}, nil},
		{"storage network of one node cut", o.cut("n2"), "NodeOffline", "n2", []string{"NodeOffline", "VolumeAtRisk", "MetaMemberDown"}, []string{"NodeUnreachable", "VolumeUnavailable", "MetadataSilent"}},
		{"two chunks cannot reach each other", o.apart("n1", "n2"), "NodeUnreachable", "*", []string{"NodeUnreachable"}, []string{"VolumeAtRisk", "VolumeUnavailable"}},
		{"disk disappears", o.diskGone("n3"), "DiskFailed", "n3/disk0", []string{"DiskFailed"}, []string{"VolumeAtRisk", "RebuildWaiting"}},
		{"disk not there at the start", o.diskMissing("n1"), "DiskMissing", "n1/disk0", []string{"DiskMissing", "VolumeAtRisk"}, []string{"NodeOffline", "VolumeUnavailable"}},
		{"disk slow", o.disk(faultfs.Slow(700 * time.Millisecond)), "DiskSlow", faultyNode + "/disk0", []string{"DiskSlow"}, []string{"VolumeAtRisk"}},
		{"disk does not answer", o.diskHangs, "DiskSlow", faultyNode + "/disk0", []string{"DiskSlow"}, []string{"VolumeAtRisk", "DiskFailed"}},
		{"writes of a disk fail", o.diskFails, "DiskFailed", faultyNode + "/disk0", []string{"DiskFailed"}, []string{"VolumeAtRisk", "RebuildWaiting", "DiskErrors"}},
		{"bits rot on a disk", o.rot, "DiskErrors", "*", []string{"DiskErrors"}, nil},
		{"initiator with a wrong CHAP secret", o.login(&initiator.CHAP{User: "u", Secret: "wrong-wrong-wrong"}, "iqn.2026-01.test:chap"), "LoginsRefused", "*", []string{"LoginsRefused"}, nil},
		{"initiator without a grant", o.login(nil, "iqn.2026-01.test:stranger"), "LoginsRefused", "*", []string{"LoginsRefused"}, nil},
		{"certificates of chunks end in a week", o.certificate(mtls.RoleChunk), "CertificateExpiring", "*", []string{"CertificateExpiring"}, nil},
		{"certificates of metadata end in a week", o.certificate(mtls.RoleMeta), "CertificateExpiring", "*", []string{"CertificateExpiring"}, nil},
		{"a node with a wrong clock", o.skewed, "ClockSkew", "n9", []string{"ClockSkew", "NodeUnreachable"}, []string{"NodeOffline"}},
		{"a node in maintenance", o.maintenance("n1"), "NodeMaintenance", "n1", []string{"NodeMaintenance"}, nil},
		{"a disk being drained", o.drain("n2"), "DiskDraining", "n2/disk0", nil, []string{"RebuildWaiting", "Migrating"}},
		{"a chunk that crashes again and again", o.crashing("n3"), "NodeOffline", "n3", []string{"ProcessRestarting"}, append([]string{"RebuildWaiting", "VolumeUnavailable"}, oneNode...)},
		{"disk and another node's chunk at once", both(o.diskGone("n1"), kill(chunk("n2"))), "NodeOffline", "n2", []string{"NodeOffline", "DiskFailed"}, []string{"VolumeUnavailable", "VolumeAtRisk", "CommandsFailing", "RebuildWaiting"}},
		{"a node's loss would not be covered", o.fill(0.72), "NodeLossUncovered", "*", []string{"NodeLossUncovered"}, []string{"PoolFilling"}},
		{"pool over 80 %", o.fill(0.83), "PoolFilling", "", []string{"PoolFilling", "NodeLossUncovered"}, nil},
		{"pool over 90 %", o.fill(0.92), "PoolFull", "", []string{"PoolFull", "NodeLossUncovered", "NodeFull"}, []string{"PoolFilling"}},
	}
}

func both(list ...func(context.Context) (func() error, error)) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		var mends []func() error
		mend := func() error {
			for _, f := range mends {
				if err := f(); err != nil {
					return err
				}
			}
			return nil
		}
		for _, f := range list {
			m, err := f(ctx)
			if m != nil {
				mends = append(mends, m)
			}
			if err != nil {
				return mend, err
			}
		}
		return mend, nil
	}
}

// metas kills n members, the leader among them.
func (o *observer) metas(n int) func(context.Context) (func() error, error) {
	return func(context.Context) (func() error, error) {
		for _, name := range append([]string{o.leader()}, o.followers()...)[:n] {
			if err := o.c.Node(name).Meta.Kill(); err != nil {
				return o.c.StartMeta, err
			}
		}
		return o.c.StartMeta, nil
	}
}

func (o *observer) cut(name string) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		n := o.c.Node(name)
		return func() error { return n.Heal(ctx) }, n.Cut(ctx)
	}
}

// apart drops what two chunks send each other, and nothing else.
func (o *observer) apart(a, b string) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		in := func(n string, args ...string) error {
			pid := strconv.Itoa(o.c.Node(n).Chunk.PID())
			out, err := exec.CommandContext(ctx, "nsenter", append([]string{"-t", pid, "-n", "nft"}, args...)...).CombinedOutput()
			if err != nil {
				return fmt.Errorf("nft in %s: %w: %s", n, err, out)
			}
			return nil
		}
		mend := func() error { return in(a, "delete", "table", "inet", "apart") }
		if err := in(a, "add", "table", "inet", "apart"); err != nil {
			return nil, err
		}
		for _, hook := range []string{"input", "output"} {
			if err := in(a, "add", "chain", "inet", "apart", hook, "{ type filter hook "+hook+" priority 0; }"); err != nil {
				return mend, err
			}
			for _, port := range []string{"sport", "dport"} {
				addr := "daddr"
				if hook == "input" {
					addr = "saddr"
				}
				if err := in(a, "add", "rule", "inet", "apart", hook, "ip", addr, o.c.Node(b).Address, "tcp", port, "10201", "drop"); err != nil {
					return mend, err
				}
			}
		}
		return mend, nil
	}
}

func (o *observer) diskPath(node string) string { return filepath.Join(o.c.Dir, node, "disk0.img") }

// restart starts the chunk of a node anew.
func (o *observer) restart(node string) error {
	p := o.c.Node(node).Chunk
	if p.Running() {
		if err := p.Kill(); err != nil {
			return err
		}
	}
	return p.Start()
}

func (o *observer) diskGone(node string) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		path := o.diskPath(node)
		old, err := o.diskID(ctx, node)
		if err != nil {
			return nil, err
		}
		// A failed disk is never tried again (I7): another takes its place, and it is forgotten.
		mend := func() error {
			if err := o.c.Node(node).Chunk.Kill(); err != nil {
				return err
			}
			if err := os.Remove(path + ".gone"); err != nil {
				return err
			}
			if err := vdisk.Prewrite(ctx, path, diskBytes, nil); err != nil {
				return err
			}
			if err := o.c.Node(node).Chunk.Start(); err != nil {
				return err
			}
			return o.forget(ctx, old)
		}
		return mend, os.Rename(path, path+".gone")
	}
}

// disk makes the disk of faultyNode follow a rule.
func (o *observer) disk(rule faultfs.Rule) func(context.Context) (func() error, error) {
	return func(context.Context) (func() error, error) {
		d := o.c.Node(faultyNode).Disk
		d.Set(rule)
		return func() error { d.Set(nil); return nil }, nil
	}
}

func (o *observer) diskHangs(context.Context) (func() error, error) {
	d, until := o.c.Node(faultyNode).Disk, make(chan struct{})
	d.Set(faultfs.Hang(until))
	return func() error { d.Set(nil); close(until); return nil }, nil
}

// diskFails fails every write. A failed disk is never tried again (I7): it is emptied, counts as another, and the old one is forgotten.
func (o *observer) diskFails(ctx context.Context) (func() error, error) {
	n := o.c.Node(faultyNode)
	old, err := o.diskID(ctx, faultyNode)
	if err != nil {
		return nil, err
	}
	n.Disk.Set(faultfs.Fail(faultfs.Write, syscall.EIO))
	return func() error {
		if err := n.Chunk.Kill(); err != nil {
			return err
		}
		n.Disk.Set(nil)
		blank := make([]byte, 1<<20)
		f, err := os.OpenFile(n.Backing, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		for at := int64(0); at < diskBytes && err == nil; at += int64(len(blank)) {
			_, err = f.WriteAt(blank, at)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
		if err := n.Chunk.Start(); err != nil {
			return err
		}
		return o.forget(ctx, old)
	}, nil
}

func (o *observer) diskID(ctx context.Context, node string) (id string, err error) {
	st, err := o.c.Client.Cluster.ListDisks(ctx, &storagedv1.ListDisksRequest{Node: node})
	for _, d := range st.GetDisks() {
		id = d.Id
	}
	return id, err
}

// forget removes a failed disk, as soon as that is possible.
func (o *observer) forget(ctx context.Context, id string) error {
	return cluster.Await(ctx, time.Minute, func() string {
		if _, err := o.c.Client.Cluster.RemoveDisk(ctx, &storagedv1.RemoveDiskRequest{Id: id}); err != nil {
			return err.Error()
		}
		return ""
	})
}

func (o *observer) diskMissing(node string) func(context.Context) (func() error, error) {
	return func(context.Context) (func() error, error) {
		path := o.diskPath(node)
		if err := o.c.Node(node).Chunk.Kill(); err != nil {
			return nil, err
		}
		if err := os.Rename(path, path+".gone"); err != nil {
			return nil, err
		}
		mend := func() error {
			if err := os.Rename(path+".gone", path); err != nil {
				return err
			}
			return o.restart(node)
		}
		return mend, o.c.Node(node).Chunk.Start()
	}
}

// rot writes a block with a mark, waits until it is in its place on the owner's disk, damages it there, and reads it.
func (o *observer) rot(ctx context.Context) (func() error, error) {
	mark := make([]byte, 16)
	_, _ = rand.Read(mark)
	data := bytes.Repeat(mark, 4096/len(mark))
	at := uint64(o.sizeBytes/2) / 65536 * 65536
	// Large, so that it is written in place at once and not through the journal.
	big := bytes.Repeat(data, 16)
	if err := o.session.WriteAt(ctx, big, at); err != nil {
		return nil, err
	}
	node := o.owner()
	path := o.diskPath(node)
	before, err := o.checksumErrors(ctx, node)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var hit int64 = -1
	buf := make([]byte, 4<<20)
	for off := int64(0); hit < 0; off += int64(len(buf)) {
		n, err := f.ReadAt(buf, off)
		for i := 0; i+4096 <= n; i += 4096 {
			if bytes.Equal(buf[i:i+16], mark) {
				hit = off + int64(i)
				break
			}
		}
		if err != nil {
			break
		}
	}
	if hit < 0 {
		return nil, fmt.Errorf("the block is not found on %s", path)
	}
	if _, err := f.WriteAt([]byte{^mark[0]}, hit); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	// The reader's session is at the owner, which reads its own replica, if it has one just now.
	if err := o.session.ReadAt(ctx, big, at); err != nil {
		return nil, fmt.Errorf("a block with a good copy elsewhere cannot be read: %w", err)
	}
	if !bytes.Equal(big[:4096], data) {
		return nil, fmt.Errorf("rotten data was read")
	}
	if _, ok := await(ctx, 3*time.Second, func() bool { n, err := o.checksumErrors(ctx, node); return err == nil && n > before }); !ok {
		// Nobody has read this copy: a verification does.
		if _, err := o.c.Client.Volumes.VerifyVolume(ctx, &storagedv1.VerifyVolumeRequest{Id: o.volumes["data"].Id, Start: true}); err != nil {
			return nil, err
		}
	}
	return func() error { return nil }, nil
}

func (o *observer) checksumErrors(ctx context.Context, node string) (n uint64, err error) {
	st, err := o.c.Client.Cluster.ListDisks(ctx, &storagedv1.ListDisksRequest{Node: node})
	for _, d := range st.GetDisks() {
		n += d.ChecksumErrors
	}
	return n, err
}

// login tries to log in at the owner with credentials that are wrong.
func (o *observer) login(secrets *initiator.CHAP, name string) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		id := o.volumes["chap"].Id
		if secrets != nil {
			if _, err := o.c.Client.Volumes.PublishVolume(ctx, &storagedv1.PublishVolumeRequest{VolumeId: id, Initiator: name, Mode: storagedv1.AccessMode_ACCESS_MODE_SHARED,
				ChapUser: "u", ChapSecret: "right-right-right"}); err != nil {
				return nil, err
			}
		}
		cctx, cancel := context.WithTimeout(ctx, 4*time.Second)
		defer cancel()
		s, err := initiator.Dial(cctx, initiator.Options{Portals: []string{cluster.Portal}, Target: o.volumes["chap"].Iqn, Initiator: name, CHAP: secrets})
		if err == nil {
			_ = s.Close()
			return nil, fmt.Errorf("initiator %s was let in", name)
		}
		return func() error { return nil }, nil
	}
}

// certificate gives a role credentials that end in a week, and then good ones again. Processes take them up when they start.
func (o *observer) certificate(role mtls.Role) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		give := func(validity time.Duration) error {
			leaf, err := o.c.CA.Issue(mtls.LeafOptions{Role: role, Hosts: []string{"localhost"}, Validity: validity})
			if err != nil {
				return err
			}
			if err := leaf.Write(filepath.Join(o.c.Dir, "tls", string(role))); err != nil {
				return err
			}
			for _, n := range o.c.Nodes {
				p := n.Chunk
				if role == mtls.RoleMeta {
					p = n.Meta
				}
				if err := p.Kill(); err != nil {
					return err
				}
				if err := p.Start(); err != nil {
					return err
				}
				if err := o.c.Client.AwaitOnline(ctx, len(o.c.Nodes), time.Minute); err != nil {
					return err
				}
			}
			return nil
		}
		err := give(7 * 24 * time.Hour)
		// The restarts are not what is to be told.
		await(ctx, mendWithin, func() bool { return slices.Equal(alerts(ctx, "pending|firing"), []string{"CertificateExpiring"}) })
		return func() error { return give(365 * 24 * time.Hour) }, err
	}
}

// skewed registers a chunk of ours whose clock is a minute behind.
func (o *observer) skewed(ctx context.Context) (func() error, error) {
	src, err := mtls.Load(filepath.Join(o.c.Dir, "tls", string(mtls.RoleChunk)))
	if err != nil {
		return nil, err
	}
	address := o.c.Node(o.leader()).Address + ":10100"
	conn, err := rpc.Connect(address, rpc.Options{Credentials: src.ClientCredentials(mtls.RoleMeta)})
	if err != nil {
		return nil, err
	}
	m := storagedv1.NewMembershipClient(conn)
	boot := uint64(time.Now().UnixNano())
	r, err := m.Register(ctx, &storagedv1.RegisterRequest{Node: "n9", DataAddress: "10.77.0.99:1", IscsiAddress: "10.77.0.99:2", ControlAddress: "10.77.0.99:3", BootId: boot,
		FeatureLevel: uint32(block.FeatureLevel), Version: "test"})
	if err != nil {
		return nil, err
	}
	sctx, stop := context.WithCancel(ctx)
	st, err := m.Heartbeat(sctx)
	if err != nil {
		stop()
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTicker(200 * time.Millisecond)
		defer t.Stop()
		for {
			select {
			case <-sctx.Done():
				return
			case <-t.C:
			}
			if st.Send(&storagedv1.HeartbeatRequest{Chunk: r.Chunk, BootId: boot, Full: true, Clock: timestamppb.New(time.Now().Add(-time.Minute))}) != nil {
				return
			}
			if _, err := st.Recv(); err != nil {
				return
			}
		}
	}()
	return func() error {
		stop()
		<-done
		_ = conn.Close()
		return cluster.Await(ctx, 30*time.Second, func() string {
			if _, err := o.c.Client.Cluster.RemoveNode(ctx, &storagedv1.RemoveNodeRequest{Node: "n9"}); err != nil {
				return err.Error()
			}
			return ""
		})
	}, nil
}

func (o *observer) maintenance(node string) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		set := func(mode string) error {
			_, err := o.c.Client.Cluster.SetNodeMode(ctx, &storagedv1.SetNodeModeRequest{Node: node, Mode: mode})
			return err
		}
		return func() error { return set("active") }, set("maintenance")
	}
}

func (o *observer) drain(node string) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		id, err := o.diskID(ctx, node)
		if err != nil {
			return nil, err
		}
		set := func(cancel bool) error {
			_, err := o.c.Client.Cluster.DrainDisk(ctx, &storagedv1.DrainDiskRequest{Id: id, Cancel: cancel})
			return err
		}
		return func() error { return set(true) }, set(false)
	}
}

func (o *observer) crashing(node string) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		p := o.c.Node(node).Chunk
		for range 5 {
			if err := o.restart(node); err != nil {
				return nil, err
			}
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(3 * time.Second): // each process must live to be scraped
			}
		}
		return p.Start, p.Kill()
	}
}

// fill writes a volume until so much of the pool is used.
func (o *observer) fill(part float64) func(context.Context) (func() error, error) {
	return func(ctx context.Context) (func() error, error) {
		st, err := o.settled(ctx)
		if err != nil {
			return nil, err
		}
		size := int64(st.TotalBytes) / int64(len(o.c.Nodes)) >> 20 << 20
		v, err := o.volume(ctx, "fill", size)
		if err != nil {
			return nil, err
		}
		var s *initiator.Session
		mend := func() error {
			if s != nil {
				_ = s.Close()
			}
			if _, err := o.c.Client.Volumes.UnpublishVolume(ctx, &storagedv1.UnpublishVolumeRequest{VolumeId: v.Id, Initiator: "*"}); err != nil {
				return err
			}
			return cluster.Await(ctx, time.Minute, func() string {
				if _, err := o.c.Client.Volumes.DeleteVolume(ctx, &storagedv1.DeleteVolumeRequest{Id: v.Id}); err != nil {
					return err.Error()
				}
				return ""
			})
		}
		// The owner may hear of the grant a moment after it was made.
		if err := cluster.Await(ctx, 20*time.Second, func() string {
			if s, err = initiator.Dial(ctx, initiator.Options{Portals: []string{cluster.Portal}, Target: v.Iqn, Initiator: observerName}); err != nil {
				return err.Error()
			}
			return ""
		}); err != nil {
			return mend, err
		}
		buf := make([]byte, 1<<20)
		_, _ = rand.Read(buf)
		want := uint64(part * float64(st.TotalBytes))
		for at := int64(0); st.UsedBytes < want; {
			end := at + int64(want-st.UsedBytes)/int64(len(o.c.Nodes)) + int64(len(buf))
			for ; at < min(end, size-int64(len(buf))); at += int64(len(buf)) {
				if err := s.WriteAt(ctx, buf, uint64(at)); err != nil {
					return mend, fmt.Errorf("fill at %d of %d MiB: %w", at>>20, end>>20, err)
				}
			}
			if st, err = o.settled(ctx); err != nil {
				return mend, err
			}
		}
		return mend, nil
	}
}

// settled is the status when the used space stays as it is: what deleted volumes held comes back a while after, and is reported after that.
func (o *observer) settled(ctx context.Context) (st *storagedv1.ClusterStatus, err error) {
	var since time.Time
	used := uint64(0)
	if _, ok := await(ctx, time.Minute, func() bool {
		if st, err = o.status(ctx); err != nil {
			return false
		}
		if used/(1<<20) != st.UsedBytes/(1<<20) || since.IsZero() {
			used, since = st.UsedBytes, time.Now()
		}
		return time.Since(since) > 4*time.Second
	}); !ok && err == nil {
		err = fmt.Errorf("the used space of the pool does not come to rest: %d MiB", used>>20)
	}
	return st, err
}
