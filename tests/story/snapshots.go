package story

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// snapshots takes a snapshot of the files while they are written, restores it, and grows the volume under the pod.
func (s *story) snapshots() error {
	l := s.l
	if err := s.progress(s.fs, 20); err != nil {
		return err
	}
	before, _, err := s.fs.state()
	if err != nil {
		return err
	}
	l.Say("$ kubectl apply -f snapshot.yaml      # VolumeSnapshot story-1 of claim %s, while the pod writes", fsPVC)
	if err := l.Apply(s.ctx, snapshot("story-1", fsPVC)); err != nil {
		return err
	}
	if err := l.Until(s.ctx, time.Minute, "the snapshot is ready", func(ctx context.Context) string {
		out, err := l.Kubectl(ctx, "get", "volumesnapshot", "story-1", "-o", "jsonpath={.status.readyToUse} {.status.error.message}")
		if err != nil {
			return err.Error()
		}
		if !strings.HasPrefix(out, "true") {
			return "not ready: " + out
		}
		return ""
	}); err != nil {
		return err
	}
	if _, err := l.Show(s.ctx, "kubectl", "get", "volumesnapshot"); err != nil {
		return err
	}
	after, _, err := s.fs.state()
	if err != nil {
		return err
	}
	l.Say("$ kubectl apply -f restore.yaml       # a claim with the snapshot as its source, larger, and a pod that checks it")
	if err := l.Apply(s.ctx, restored("restored", "story-1", "768Mi")); err != nil {
		return err
	}
	var log string
	if err := l.Until(s.ctx, 2*time.Minute, "the restored volume has been checked", func(ctx context.Context) string {
		phase, err := l.Kubectl(ctx, "get", "pod", "restored", "-o", "jsonpath={.status.phase}")
		if err != nil {
			return err.Error()
		}
		if log, err = l.Kubectl(ctx, "logs", "restored"); err != nil {
			log = ""
		}
		if phase != "Succeeded" {
			return "pod restored is " + phase + " " + log
		}
		return ""
	}); err != nil {
		return err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(log), "verified ")), 10, 64)
	if err != nil {
		return fmt.Errorf("the checking pod said %q", log)
	}
	l.Say("the snapshot holds records up to %d; %d were acknowledged before it was asked for", n, before)
	if n < before {
		return fmt.Errorf("the snapshot lacks acknowledged records: %d of %d", n, before)
	}
	if n > after+100 {
		return fmt.Errorf("the snapshot holds records (%d) of after it was ready (%d)", n, after)
	}
	return s.expand()
}

func (s *story) expand() error {
	l := s.l
	size := func(ctx context.Context) (int64, error) {
		out, err := l.Kubectl(ctx, "exec", fsPod, "--", "df", "-k", "/data")
		if err != nil {
			return 0, err
		}
		lines := strings.Split(strings.TrimSpace(out), "\n")
		f := strings.Fields(lines[len(lines)-1])
		if len(f) < 2 {
			return 0, fmt.Errorf("df said %q", out)
		}
		return strconv.ParseInt(f[1], 10, 64)
	}
	was, err := size(s.ctx)
	if err != nil {
		return err
	}
	if _, err := l.Show(s.ctx, "kubectl", "patch", "pvc", fsPVC, "-p", `{"spec":{"resources":{"requests":{"storage":"1Gi"}}}}`); err != nil {
		return err
	}
	var now int64
	if err := l.Until(s.ctx, 2*time.Minute, "the filesystem has grown under the pod", func(ctx context.Context) string {
		if now, err = size(ctx); err != nil {
			return err.Error()
		}
		if now < was+200<<10 {
			return fmt.Sprintf("it has %d KiB", now)
		}
		return ""
	}); err != nil {
		return err
	}
	l.Say("filesystem: %d MiB before, %d MiB now, the pod wrote all the time", was>>10, now>>10)
	if err := s.progress(s.fs, 20); err != nil {
		return err
	}
	if err := s.progress(s.blk, 20); err != nil {
		return err
	}
	if _, err := l.Plugin(s.ctx, "volume", "list"); err != nil {
		return err
	}
	return s.status()
}
