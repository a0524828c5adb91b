package story

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

func asCommand(err error, ce **lab.CommandError) bool { return errors.As(err, ce) }

// ownerLost is act 1: the pod's I/O goes on while the owner's node is off, and the node gets only what it missed.
func (s *story) ownerLost() error {
	l := s.l
	if err := s.healthy("all replicas are in sync"); err != nil {
		return err
	}
	pod, err := nodeOf(s.ctx, l, fsPod)
	if err != nil {
		return err
	}
	other, err := nodeOf(s.ctx, l, blkPod)
	if err != nil {
		return err
	}
	victim, err := s.thirdNode(pod, other)
	if err != nil {
		return err
	}
	l.Say("the pod runs on %s; the ownership of its volume is moved to %s", pod, victim)
	l.Say("$ storaged ctl volume move %s --node %s", s.fsID, victim)
	if _, err := l.Storaged(s.ctx, "volume", "move", s.fsID, "--node", victim); err != nil {
		return err
	}
	if owner, err := s.owner(s.fsID); err != nil || owner != victim {
		return fmt.Errorf("the owner is %q, not %s: %w", owner, victim, err)
	}
	before, _, err := s.fs.state()
	if err != nil {
		return err
	}
	l.Say("%s loses power (every process gone at once, no goodbye on the network)", victim)
	if err := l.Cluster.PowerOff(s.ctx, victim); err != nil {
		return err
	}
	if err := s.progress(s.fs, 200); err != nil {
		return err
	}
	acked, longest, err := s.fs.state()
	if err != nil {
		return err
	}
	owner, err := s.owner(s.fsID)
	if err != nil {
		return err
	}
	l.Say("the pod's I/O went on: %d records more, longest pause %.1f s; owner is now %s", acked-before, longest.Seconds(), owner)
	if owner == victim {
		return fmt.Errorf("the ownership did not leave %s", victim)
	}
	if err := s.status(); err != nil {
		return err
	}
	l.Say("%s gets its power back", victim)
	if err := l.Cluster.Boot(s.ctx, victim); err != nil {
		return err
	}
	if err := s.healthy("what the node missed has been copied; all replicas are in sync"); err != nil {
		return err
	}
	return s.status()
}

func (s *story) thirdNode(not ...string) (string, error) {
	nodes, err := s.l.Cluster.Nodes()
	if err != nil {
		return "", err
	}
	for _, n := range nodes {
		if n != not[0] && n != not[len(not)-1] {
			return n, nil
		}
	}
	for _, n := range nodes {
		if n != not[0] {
			return n, nil
		}
	}
	return "", errors.New("the cluster has one node only")
}

const outOfService = "node.kubernetes.io/out-of-service=nodeshutdown:NoExecute"

// podLost is act 2: the node of the pod, which also owns its volume, is lost; the pod starts elsewhere with every acknowledged record.
func (s *story) podLost() error {
	l := s.l
	victim, err := nodeOf(s.ctx, l, fsPod)
	if err != nil {
		return err
	}
	if err := l.Until(s.ctx, 2*time.Minute, "the volume is owned by the pod's node "+victim, func(ctx context.Context) string {
		owner, err := s.owner(s.fsID)
		if err != nil {
			return err.Error()
		}
		if owner != victim {
			return "owner is " + owner
		}
		return ""
	}); err != nil {
		return err
	}
	if err := s.progress(s.fs, 50); err != nil {
		return err
	}
	l.Say("%s loses power: the pod, its device and the volume's owner with it", victim)
	if err := l.Cluster.PowerOff(s.ctx, victim); err != nil {
		return err
	}
	acked, _, err := s.fs.state()
	if err != nil {
		return err
	}
	off := time.Now()
	if err := l.Until(s.ctx, 90*time.Second, "Kubernetes has noticed", func(ctx context.Context) string {
		out, err := l.Kubectl(ctx, "get", "node", victim, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		if err != nil {
			return err.Error()
		}
		if strings.TrimSpace(out) == "True" {
			return "node " + victim + " still counts as Ready"
		}
		return ""
	}); err != nil {
		return err
	}
	if _, err := l.Show(s.ctx, "kubectl", "taint", "node", victim, outOfService); err != nil {
		return err
	}
	tainted := time.Now()
	s.fs.forget()
	if err := l.Until(s.ctx, 3*time.Minute, "pod "+fsPod+" runs elsewhere", func(ctx context.Context) string {
		if why := running(ctx, l, fsPod); why != "" {
			return why
		}
		if n, err := nodeOf(ctx, l, fsPod); err != nil || n == victim {
			return "it still counts as running on " + victim
		}
		return ""
	}); err != nil {
		return err
	}
	if s.fs, err = watch(s.ctx, l, fsPod); err != nil {
		return err
	}
	if err := s.progress(s.fs, 20); err != nil {
		return err
	}
	s.fs.mu.Lock()
	verified := s.fs.verified
	s.fs.mu.Unlock()
	node, err := nodeOf(s.ctx, l, fsPod)
	if err != nil {
		return err
	}
	l.Say("pod %s writes again on %s, %.1f s after the taint (%.1f s after the power cut)", fsPod, node, time.Since(tainted).Seconds(), time.Since(off).Seconds())
	l.Say("records acknowledged before the cut: %d; found unbroken after it: %d", acked, verified)
	if verified < acked {
		return fmt.Errorf("acknowledged records are missing: %d were acknowledged, %d are there", acked, verified)
	}
	if err := s.status(); err != nil {
		return err
	}
	l.Say("%s gets its power back", victim)
	if err := l.Cluster.Boot(s.ctx, victim); err != nil {
		return err
	}
	if _, err := l.Show(s.ctx, "kubectl", "taint", "node", victim, outOfService+"-"); err != nil {
		return err
	}
	if err := s.healthy("all replicas are in sync again"); err != nil {
		return err
	}
	if err := l.Until(s.ctx, 2*time.Minute, "pod "+blkPod+" runs", func(ctx context.Context) string { return running(ctx, l, blkPod) }); err != nil {
		return err
	}
	s.blk.forget()
	if s.blk, err = watch(s.ctx, l, blkPod); err != nil {
		return err
	}
	return s.status()
}
