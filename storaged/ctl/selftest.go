package ctl

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
	"github.com/iomesh/iomesh/internal/iscsi/initiator"
)

const (
	// selftestPrefix begins the names of scratch volumes. What an interrupted test has left is deleted by the next one.
	selftestPrefix = "iomesh-check-"
	selftestBytes  = 64 << 20
	// selftestStale is how old a scratch volume must be to count as left over: a test takes seconds.
	selftestStale = 15 * time.Minute
	// selftestPauseMax is how long writes may stand still while the owner changes, before that is a finding.
	selftestPauseMax = 5 * time.Second
)

// selftestStep is one line of the output.
type selftestStep struct {
	Step    string  `json:"step"`
	OK      bool    `json:"ok"`
	Detail  string  `json:"detail"`
	Seconds float64 `json:"seconds"`
}

// selftest is one run.
type selftest struct {
	a    *app
	cmd  *cobra.Command
	vc   storagedv1.VolumesClient
	vol  *storagedv1.Volume
	name string // of the initiator
	lun  *initiator.Session
	data []byte
}

func (a *app) selftestCommand() *cobra.Command {
	var replicas uint32
	cmd := &cobra.Command{
		Use: "selftest", Short: "Make a scratch volume, write, move its owner while writing, read back and compare, delete it", Args: exactly(0),
		Long: `Make a scratch volume and use it as a client does: log in by iSCSI with CHAP, write, read back, go on writing while another node becomes its owner, read
everything again, verify all replicas, delete it. Each step is a line; with -o json a line of JSON. Nothing else in the cluster is touched. The addresses of the
storage network must be reachable from where this runs.`,
	}
	cmd.Flags().Uint32Var(&replicas, "replicas", 2, "copies on different nodes")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.run(cmd, "test the block service with a scratch volume", func(ctx context.Context, vc storagedv1.VolumesClient, _ storagedv1.ClusterClient) error {
			t := &selftest{a: a, cmd: cmd, vc: vc, name: "iqn.2016-02.com.iomesh:check"}
			return t.run(ctx, replicas)
		})
	}
	return cmd
}

// run does the steps in order; after the first that fails only the clean-up follows.
func (t *selftest) run(ctx context.Context, replicas uint32) error {
	if err := t.sweep(ctx); err != nil {
		return err
	}
	steps := []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"create", func(ctx context.Context) (string, error) { return t.create(ctx, replicas) }},
		{"login", t.login}, {"write", t.write}, {"read", t.read}, {"move", t.move}, {"read again", t.read}, {"replicas", t.replicas},
	}
	var failed error
	for _, s := range steps {
		if failed = t.step(ctx, s.name, s.do); failed != nil {
			break
		}
	}
	// Also when it was interrupted: nobody else would do it soon.
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	if err := t.step(end, "clean up", t.cleanUp); failed == nil {
		failed = err
	}
	return failed
}

func (t *selftest) step(ctx context.Context, name string, do func(context.Context) (string, error)) error {
	begin := time.Now()
	detail, err := do(ctx)
	s := selftestStep{Step: name, OK: err == nil, Detail: detail, Seconds: time.Since(begin).Seconds()}
	if err != nil {
		s.Detail = err.Error()
	}
	out := t.cmd.OutOrStdout()
	if t.a.output == "json" {
		if err := json.NewEncoder(out).Encode(s); err != nil {
			return err
		}
	} else {
		word := "ok"
		if err != nil {
			word = "FAILED"
		}
		fmt.Fprintf(out, "%-6s  %-10s  %5.1f s  %s\n", word, name, s.Seconds, s.Detail)
	}
	if err != nil {
		return &Error{code: exitProblems, err: err, msg: fmt.Sprintf("test with a scratch volume: %s: %v; see `storaged ctl status`", name, err)}
	}
	return nil
}

// sweep deletes what interrupted tests have left.
func (t *selftest) sweep(ctx context.Context) error {
	token := ""
	for {
		r, err := t.vc.ListVolumes(ctx, &storagedv1.ListVolumesRequest{PageToken: token})
		if err != nil {
			return err
		}
		for _, v := range r.GetVolumes() {
			if strings.HasPrefix(v.GetName(), selftestPrefix) && time.Since(v.GetCreated().AsTime()) > selftestStale {
				t.vol = v
				if _, err := t.cleanUp(ctx); err != nil {
					return err
				}
			}
		}
		if token = r.GetNextPageToken(); token == "" {
			return nil
		}
	}
}

func (t *selftest) create(ctx context.Context, replicas uint32) (string, error) {
	var id [4]byte
	_, _ = rand.Read(id[:]) // never fails
	v, err := t.vc.CreateVolume(ctx, &storagedv1.CreateVolumeRequest{Name: selftestPrefix + hex.EncodeToString(id[:]), SizeBytes: selftestBytes, ReplicaFactor: replicas})
	if err != nil {
		return "", err
	}
	t.vol = v
	return fmt.Sprintf("volume %s of %s with %d replicas, owner %s", v.GetName(), bytesText(v.GetSizeBytes()), v.GetReplicaFactor(), v.GetOwnerNode()), nil
}

func (t *selftest) login(ctx context.Context) (string, error) {
	g, err := t.vc.PublishVolume(ctx, &storagedv1.PublishVolumeRequest{VolumeId: t.vol.GetId(), Initiator: t.name, Mode: storagedv1.AccessMode_ACCESS_MODE_EXCLUSIVE})
	if err != nil {
		return "", err
	}
	o := initiator.Options{Portals: t.vol.GetPortals(), Target: t.vol.GetIqn(), Initiator: t.name, LUN: uint8(t.vol.GetLun())}
	if g.GetChapUser() != "" {
		o.CHAP = &initiator.CHAP{User: g.GetChapUser(), Secret: g.GetChapSecret(), MutualUser: g.GetMutualUser(), MutualSecret: g.GetMutualSecret()}
	}
	if t.lun, err = initiator.Dial(ctx, o); err != nil {
		return "", fmt.Errorf("log in to %s at %s: %w", t.vol.GetIqn(), strings.Join(t.vol.GetPortals(), ", "), err)
	}
	at, _ := t.lun.Portal()
	return "logged in at " + at, nil
}

func (t *selftest) write(ctx context.Context) (string, error) {
	t.data = make([]byte, 8<<20)
	_, _ = rand.Read(t.data)
	if err := t.lun.WriteAt(ctx, t.data, 0); err != nil {
		return "", err
	}
	// Small ones, at odd places: read-merge-write at the owner.
	for i := range 64 {
		off := i*97*1024 + 512
		_, _ = rand.Read(t.data[off : off+1536])
		if err := t.lun.WriteAt(ctx, t.data[off:off+1536], uint64(off)); err != nil {
			return "", err
		}
	}
	return bytesText(uint64(len(t.data))) + " written", nil
}

func (t *selftest) read(ctx context.Context) (string, error) {
	got := make([]byte, len(t.data))
	if err := t.lun.ReadAt(ctx, got, 0); err != nil {
		return "", err
	}
	if !bytes.Equal(got, t.data) {
		at := 0
		for got[at] == t.data[at] {
			at++
		}
		return "", fmt.Errorf("what is read differs from what was written, first at byte %d", at)
	}
	return bytesText(uint64(len(got))) + " read and equal", nil
}

// move makes another node the owner while writes go on.
func (t *selftest) move(ctx context.Context) (string, error) {
	v, err := find(ctx, t.vc, t.vol.GetId(), true)
	if err != nil {
		return "", err
	}
	from, to := v.GetOwnerNode(), ""
	for _, e := range v.GetStatus().GetExtentStatus() {
		for _, m := range e.GetMembers() {
			if m.GetNode() != from {
				to = m.GetNode()
			}
		}
	}
	if to == "" {
		return "not tried: no other node has a replica", nil
	}
	var stop atomic.Bool
	var writes int
	var longest time.Duration
	done := make(chan error, 1)
	go func() {
		for n := 0; !stop.Load() || n < 100; n++ {
			off := (n * 4096) % len(t.data)
			_, _ = rand.Read(t.data[off : off+4096])
			begin := time.Now()
			if err := t.lun.WriteAt(ctx, t.data[off:off+4096], uint64(off)); err != nil {
				done <- fmt.Errorf("write while the owner changes: %w", err)
				return
			}
			writes, longest = n+1, max(longest, time.Since(begin))
		}
		done <- nil
	}()
	v, err = t.vc.MoveOwner(ctx, &storagedv1.MoveOwnerRequest{VolumeId: t.vol.GetId(), Node: to})
	stop.Store(true)
	werr := <-done
	switch {
	case err != nil:
		return "", err
	case werr != nil:
		return "", werr
	case v.GetOwnerNode() != to:
		return "", fmt.Errorf("node %s was to become the owner, it is %s", to, v.GetOwnerNode())
	case longest > selftestPauseMax:
		return "", fmt.Errorf("writes stood still for %.1f s while the owner changed; at most %s is expected", longest.Seconds(), selftestPauseMax)
	}
	return fmt.Sprintf("owner changed from %s to %s during %d writes, the longest took %d ms", from, to, writes, longest.Milliseconds()), nil
}

func (t *selftest) replicas(ctx context.Context) (string, error) {
	begin := true
	for {
		r, err := t.vc.VerifyVolume(ctx, &storagedv1.VerifyVolumeRequest{Id: t.vol.GetId(), Start: begin})
		switch {
		case err != nil:
			return "", err
		case r.GetState() == "Done" && r.GetBlocksBad()+r.GetBlocksLost()+uint64(r.GetReplicasBehind()) > 0:
			return "", fmt.Errorf("%d bad blocks, %d without a good copy, %d replicas behind", r.GetBlocksBad(), r.GetBlocksLost(), r.GetReplicasBehind())
		case r.GetState() == "Done" && r.GetExtentsPassed() > 0:
			return "", errors.New("not all replicas are there")
		case r.GetState() == "Done":
			return fmt.Sprintf("%s read on all replicas: every checksum is right, all are equal", bytesText(r.GetBytesRead())), nil
		}
		begin = r.GetState() == "None"
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// cleanUp leaves nothing behind; it may be called at any point.
func (t *selftest) cleanUp(ctx context.Context) (string, error) {
	if t.lun != nil {
		_ = t.lun.Close()
		t.lun = nil
	}
	if t.vol == nil {
		return "nothing was made", nil
	}
	if _, err := t.vc.UnpublishVolume(ctx, &storagedv1.UnpublishVolumeRequest{VolumeId: t.vol.GetId(), Initiator: t.name}); err != nil {
		return "", err
	}
	name := t.vol.GetName()
	if _, err := t.vc.DeleteVolume(ctx, &storagedv1.DeleteVolumeRequest{Id: t.vol.GetId(), CascadeSnapshots: true}); err != nil {
		return "", err
	}
	t.vol = nil
	return "volume " + name + " deleted", nil
}
