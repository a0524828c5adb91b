package story

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

// Tell plays the story, from chapter from (0: all of it), on a running cluster with images (lab.Lab.Up). It returns at the first thing that is
// not as it should be.
func Tell(ctx context.Context, l *lab.Lab, tag string, from int) error {
	s := &story{l: l, ctx: ctx, tag: tag}
	return s.play([]chapter{
		{"install", s.install},
		{"map disks", s.mapDisks},
		{"volumes and pods that write", s.volumes},
		{"act 1: the volume's owner is on another node than the pod, and that node loses power", s.ownerLost},
		{"act 2: the pod's own node, which is also the owner, loses power", s.podLost},
		{"snapshot, restore, expand", s.snapshots},
	}, from)
}

// chapter is a part of a story with a title of its own.
type chapter struct {
	title string
	play  func() error
}

// play plays chapters from number from on, one after the other, until one fails.
func (s *story) play(chapters []chapter, from int) error {
	for i, c := range chapters {
		if i < from {
			continue
		}
		s.l.Title("%s", c.title)
		if err := c.play(); err != nil {
			return fmt.Errorf("%s: %w", c.title, err)
		}
	}
	return nil
}

type story struct {
	l    *lab.Lab
	ctx  context.Context
	tag  string
	fs   *witness
	blk  *witness
	fsID string
	dead string // the file behind the disk that died, if one has
}

// The two writers of the story.
const (
	fsPod, fsPVC   = "files-0", "data-files-0"
	blkPod, blkPVC = "device-0", "data-device-0"
)

func (s *story) install() error {
	l := s.l
	values, err := l.Values(s.tag)
	if err != nil {
		return err
	}
	begin := time.Now()
	if _, err := l.Plugin(s.ctx, "install", "-f", values, "--wait", "--timeout", "4m"); err != nil {
		return err
	}
	if err := l.Until(s.ctx, 2*time.Minute, "every pod of IOMesh is ready", func(ctx context.Context) string { return l.NotRunning(ctx) }); err != nil {
		return err
	}
	l.Say("all pods ready %.1f s after the command", time.Since(begin).Seconds())
	if _, err := l.Show(s.ctx, "kubectl", "-n", lab.Namespace, "get", "pods", "-o", "wide"); err != nil {
		return err
	}
	return nil
}

func (s *story) mapDisks() error {
	l := s.l
	nodes, err := l.Cluster.Nodes()
	if err != nil {
		return err
	}
	if err := l.Until(s.ctx, time.Minute, "the agents have published the disks", func(ctx context.Context) string {
		out, err := l.Kubectl(ctx, "-n", lab.Namespace, "get", "bd", "-o", "jsonpath={range .items[?(@.status.eligible==true)]}{.metadata.name} {end}")
		if err != nil {
			return err.Error()
		}
		if n := len(strings.Fields(out)); n < len(nodes) {
			return fmt.Sprintf("%d disks are eligible", n)
		}
		return ""
	}); err != nil {
		return err
	}
	if _, err := l.Plugin(s.ctx, "disk", "list"); err != nil {
		return err
	}
	if _, err := l.Plugin(s.ctx, "disk", "map", "--mount-type", "dataStoreWithJournal", "--all-eligible", "--confirm", "iomesh", "--wait", "--timeout", "3m"); err != nil {
		return err
	}
	if err := s.healthy("the pool is up"); err != nil {
		return err
	}
	return s.status()
}

// status shows the state of things as an administrator sees it.
func (s *story) status() error {
	if _, err := s.l.Show(s.ctx, "kubectl", "-n", lab.Namespace, "get", "iomesh,bd"); err != nil {
		return err
	}
	_, err := s.l.Plugin(s.ctx, "status")
	var ce *lab.CommandError
	if asCommand(err, &ce) && ce.ExitCode() == 3 {
		return nil // it ran well and found problems
	}
	return err
}

func (s *story) healthy(what string) error {
	if err := s.l.Until(s.ctx, lab.StatusWait, what, func(ctx context.Context) string { return s.l.Healthy(ctx) }); err != nil {
		return err
	}
	return s.l.Until(s.ctx, time.Minute, "the object says so too", func(ctx context.Context) string {
		out, err := s.l.Kubectl(ctx, "-n", lab.Namespace, "get", "iomesh", "iomesh", "-o", "jsonpath={.status.phase} {.status.health}")
		if err != nil {
			return err.Error()
		}
		if out = strings.TrimSpace(out); out != "Ready OK" {
			return "it is " + out
		}
		return ""
	})
}

func (s *story) volumes() error {
	l := s.l
	begin := time.Now()
	if err := l.Apply(s.ctx, classes+"---"+writer("files", "story-xfs", "Filesystem", "512Mi")+"---"+writer("device", "story-block", "Block", "256Mi")); err != nil {
		return err
	}
	for _, pod := range []string{fsPod, blkPod} {
		if err := l.Until(s.ctx, 2*time.Minute, "pod "+pod+" runs", func(ctx context.Context) string { return running(ctx, l, pod) }); err != nil {
			return err
		}
	}
	l.Say("claims bound and pods writing %.1f s after apply", time.Since(begin).Seconds())
	if _, err := l.Show(s.ctx, "kubectl", "get", "pvc,pv,pods", "-o", "wide"); err != nil {
		return err
	}
	var err error
	if s.fsID, err = volumeOf(s.ctx, l, fsPVC); err != nil {
		return err
	}
	return s.rejoin()
}

// rejoin follows the logs of the writers (again).
func (s *story) rejoin() (err error) {
	if s.fs, err = watch(s.ctx, s.l, fsPod); err != nil {
		return err
	}
	s.blk, err = watch(s.ctx, s.l, blkPod)
	return err
}

// owner asks who owns a volume now.
func (s *story) owner(id string) (node string, err error) {
	out, err := s.l.Storaged(s.ctx, "volume", "show", id, "-o", "json")
	if err != nil {
		return "", err
	}
	var v struct {
		OwnerNode string `json:"ownerNode"`
		Owner     struct {
			Node string `json:"node"`
		} `json:"owner"`
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		return "", err
	}
	if v.OwnerNode == "" {
		v.OwnerNode = v.Owner.Node
	}
	return v.OwnerNode, nil
}

// progress waits until a writer has acknowledged n records more.
func (s *story) progress(w *witness, n uint64) error {
	from, err := w.acknowledged()
	if err != nil {
		return err
	}
	return s.l.Until(s.ctx, time.Minute, fmt.Sprintf("%s has acknowledged %d records more", w.pod, n), func(context.Context) string {
		now, err := w.acknowledged()
		if err != nil {
			return err.Error()
		}
		if now < from+n {
			return fmt.Sprintf("%d of %d", now-from, n)
		}
		return ""
	})
}
