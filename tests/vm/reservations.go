package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"syscall"
	"time"

	storagedv1 "github.com/iomesh/iomesh/api/storaged/v1"
)

// secondName is a second initiator on the same machine: an interface record of its own with another name.
const (
	secondName   = "iqn.2026-01.test:second"
	secondSecret = "second-secret"
)

// reservations fences one initiator by the other with sg_persist, over an owner's death.
func (w *world) reservations(ctx context.Context) error {
	k := &claim{c: w.controller, n: w.node, nodeID: w.nodeID, name: "shared", cap: rawBlock()}
	if err := k.up(ctx, 64*mib); err != nil {
		return err
	}
	_, err := w.cluster.volumes.PublishVolume(ctx, &storagedv1.PublishVolumeRequest{VolumeId: k.id, Initiator: secondName, Mode: storagedv1.AccessMode_ACCESS_MODE_SHARED,
		ChapUser: "second", ChapSecret: secondSecret})
	if err != nil {
		return err
	}
	iqn := k.publish["iqn"]
	node := func(more ...string) []string {
		return append([]string{"iscsiadm", "-m", "node", "-T", iqn, "-I", "second"}, more...)
	}
	commands := [][]string{
		{"iscsiadm", "-m", "iface", "-I", "second", "-o", "new"},
		{"iscsiadm", "-m", "iface", "-I", "second", "-o", "update", "-n", "iface.transport_name", "-v", "tcp"},
		{"iscsiadm", "-m", "iface", "-I", "second", "-o", "update", "-n", "iface.initiatorname", "-v", secondName},
		{"iscsiadm", "-m", "node", "-o", "new", "-T", iqn, "-p", "127.0.0.1:3260", "-I", "second"},
	}
	for _, s := range [][2]string{{"node.session.auth.authmethod", "CHAP"}, {"node.session.auth.username", "second"}, {"node.session.auth.password", secondSecret},
		{"node.conn[0].timeo.noop_out_interval", "1"}, {"node.conn[0].timeo.noop_out_timeout", "2"}} {
		commands = append(commands, node("-o", "update", "-n", s[0], "-v", s[1]))
	}
	commands = append(commands, node("-l"))
	for _, c := range commands {
		if _, err := w.machine.exec(60, c...); err != nil {
			return err
		}
	}
	first, second, err := w.twoPaths(ctx, k)
	if err != nil {
		return err
	}
	must := func(args ...string) error { _, err := w.machine.exec(60, args...); return err }
	write := func(device string) (int, error) {
		r, err := w.machine.try(60, "sg_raw", "--send=512", "--infile=/dev/zero", device, "2a", "00", "00", "00", "00", "00", "00", "00", "01", "00")
		return r.Code, err
	}
	const conflict = 24 // sg3-utils: RESERVATION CONFLICT
	if err := errors.Join(
		must("sg_persist", "--out", "--register", "--param-sark=0xa1", "--param-aptpl", first),
		must("sg_persist", "--out", "--register", "--param-sark=0xb2", "--param-aptpl", second),
		must("sg_persist", "--out", "--reserve", "--param-rk=0xa1", "--prout-type=5", first), // write exclusive, registrants only
	); err != nil {
		return err
	}
	if code, err := write(second); err != nil || code != 0 {
		return fmt.Errorf("a registered initiator cannot write: exit code %d, %v", code, err)
	}
	if err := must("sg_persist", "--out", "--preempt-abort", "--param-rk=0xa1", "--param-sark=0xb2", "--prout-type=5", first); err != nil {
		return err
	}
	// The unit attention about the lost registration comes first.
	if code, err := write(second); err != nil || code == 0 {
		return fmt.Errorf("the preempted initiator writes: exit code %d, %v", code, err)
	}
	if code, err := write(second); err != nil || code != conflict {
		return fmt.Errorf("a write of the preempted initiator ends with exit code %d, want %d, %v", code, conflict, err)
	}
	d, err := w.cluster.owner(ctx, k.id)
	if err != nil {
		return err
	}
	if err := errors.Join(d.signal(syscall.SIGKILL), pause(ctx, 2*time.Second), w.cluster.awaitWhole(ctx)); err != nil {
		return err
	}
	if err := poll(ctx, time.Minute, "both paths are back", func() bool {
		return must("sg_turs", first) == nil && must("sg_turs", second) == nil
	}); err != nil {
		return err
	}
	keys, err := w.machine.exec(60, "sg_persist", "--in", "--read-keys", first)
	if err != nil || !strings.Contains(keys, "0xa1") || strings.Contains(keys, "0xb2") {
		return fmt.Errorf("registrations after the owner's death (%v): %s", err, keys)
	}
	if code, err := write(second); err != nil || code != conflict {
		return fmt.Errorf("after the owner's death a write of the preempted initiator ends with exit code %d, want %d, %v", code, conflict, err)
	}
	if err := errors.Join(must("sg_persist", "--out", "--clear", "--param-rk=0xa1", first),
		must(node("-u")...), must(node("-o", "delete")...), must("iscsiadm", "-m", "iface", "-I", "second", "-o", "delete")); err != nil {
		return err
	}
	if _, err := w.cluster.volumes.UnpublishVolume(ctx, &storagedv1.UnpublishVolumeRequest{VolumeId: k.id, Initiator: secondName}); err != nil {
		return err
	}
	return k.down(ctx)
}

// twoPaths returns the two disks of the volume: the CSI plugin's and the second initiator's.
func (w *world) twoPaths(ctx context.Context, k *claim) (first, second string, err error) {
	err = poll(ctx, time.Minute, "two disks of one volume", func() bool {
		first, second = "", ""
		out, err := w.machine.exec(20, "find", "/sys/class/iscsi_session/", "-maxdepth", "1", "-name", "session*")
		if err != nil {
			return false
		}
		for _, dir := range strings.Fields(out) {
			target, _ := w.machine.exec(20, "cat", dir+"/targetname")
			if strings.TrimSpace(target) != k.publish["iqn"] {
				continue
			}
			name, _ := w.machine.exec(20, "cat", dir+"/initiatorname")
			disks, _ := w.machine.exec(20, "find", dir+"/device/", "-maxdepth", "4", "-path", "*/block/sd*")
			fields := strings.Fields(disks)
			if len(fields) == 0 {
				continue
			}
			device := "/dev/" + path.Base(fields[0])
			if strings.TrimSpace(name) == secondName {
				second = device
			} else {
				first = device
			}
		}
		return first != "" && second != ""
	})
	return first, second, err
}
