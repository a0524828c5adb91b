package story

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

// Killed is a cluster on which nothing is left to finish its work in one go: while it is upgraded, while a disk is replaced and a node removed, and while it
// is uninstalled, plugin, operator and agents are killed one after the other, at the steps that the command tells of. The command is given again
// until it ends by itself, and then everything must be as after one that nobody disturbed. Writers run through all of it. The cluster has four nodes
// with two disks each, of which the first are mapped.
func Killed(ctx context.Context, l *lab.Lab, current, next lab.Version) error {
	s := &story{l: l, ctx: ctx, tag: current.Tag}
	return s.play([]chapter{
		{"install, the plugin killed", s.installKilled},
		{"map the first disk of each node", s.mapFirst},
		{"volumes and pods that write", s.volumes},
		{"a node is prepared and put back", s.prepareNode},
		{"upgrade to version B, killed at its steps", func() error { return s.upgradeKilled(next) }},
		{"a disk is replaced, killed at its steps", s.replaceKilled},
		{"the first node is removed, killed at its steps", s.removeKilled},
		{"every record is there", s.reread},
		{"uninstall, killed at its steps", s.uninstallKilled},
	}, 0)
}

// hunt says who is killed at the steps of a command: one of victims after another, at every so many steps, at most kills times.
type hunt struct {
	victims []string
	every   int
	kills   int

	steps, done int
}

// The victims.
const (
	thePlugin   = "plugin"
	theOperator = "operator"
	theAgents   = "agents"
)

// step is a line by which the plugin tells of its progress: after some seconds, or what it begins with.
var step = regexp.MustCompile(`^\s*\d+s  |^(Installing|Upgrading|Deleting|Removing|Device map|Revision) `)

// next counts a step and returns who is to be killed at it, "" for nobody.
func (h *hunt) next(line string) string {
	if !step.MatchString(line) {
		return ""
	}
	h.steps++
	if h.done == h.kills || (h.steps-1)%h.every != 0 {
		return ""
	}
	h.done++
	return h.victims[(h.done-1)%len(h.victims)]
}

// hunted gives a command of the plugin again and again until it ends by itself, while h kills.
func (s *story) hunted(h *hunt, args ...string) error {
	begin := time.Now()
	for {
		killed, err := s.attempt(h, args)
		switch {
		case killed:
			continue
		case err != nil:
			return err
		case h.done < min(h.kills, len(h.victims)):
			return fmt.Errorf("kubectl-iomesh %s: only %d were killed before its end", strings.Join(args, " "), h.done)
		}
		s.l.Say("finished after %d kills, %.0f s after the first attempt", h.done, time.Since(begin).Seconds())
		return nil
	}
}

// attempt runs the command once. It reports whether the plugin was killed.
func (s *story) attempt(h *hunt, args []string) (killed bool, err error) {
	argv := append([]string{"kubectl-iomesh"}, args...)
	s.l.Say("$ kubectl iomesh %s", strings.Join(args, " "))
	cmd := s.l.Command(s.ctx, argv...)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		return false, err
	}
	var wg sync.WaitGroup
	var last string
	var hurt error
	wg.Go(func() {
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			last = lines.Text()
			fmt.Fprintf(s.l.Out, "          %s\n", last)
			victim := ""
			if !killed {
				victim = h.next(last)
			}
			if victim == "" {
				continue
			}
			// Not always at the same distance from the line.
			select {
			case <-s.ctx.Done():
			case <-time.After(time.Duration(h.done*170%600) * time.Millisecond):
			}
			s.l.Say("kill %d: the %s", h.done, victim)
			if victim == thePlugin {
				killed = cmd.Process.Kill() == nil
			} else if err := s.kill(victim, h.done%2 == 0); err != nil && hurt == nil {
				hurt = err
			}
		}
		_, _ = io.Copy(io.Discard, r)
	})
	err = cmd.Wait()
	_ = w.Close()
	wg.Wait()
	switch {
	case hurt != nil:
		return false, hurt
	case err == nil:
		return false, nil // it was quicker than its death
	case killed && cmd.ProcessState.ExitCode() == -1:
		return true, nil
	}
	return false, fmt.Errorf("kubectl-iomesh %s: %w: %s", strings.Join(args, " "), err, last)
}

// kill ends the operator or the agents on all nodes: their processes, or the pods that they are in, in either case without a word.
func (s *story) kill(victim string, pods bool) error {
	component, process := "controller", "iomesh-operator"
	if victim == theAgents {
		component, process = "node", "iomesh-agent"
	}
	if pods {
		_, err := s.l.Kubectl(s.ctx, "-n", lab.Namespace, "delete", "pod", "-l", "app.kubernetes.io/component="+component, "--grace-period=0", "--force", "--wait=false")
		return err
	}
	nodes, err := s.l.Cluster.Nodes()
	if err != nil {
		return err
	}
	for _, n := range nodes {
		// Each node has process ids of its own.
		script := `for p in /proc/[0-9]*; do if [ "$(cat "$p/comm" 2>/dev/null)" = "$1" ]; then kill -9 "${p#/proc/}"; fi; done; true`
		if out, err := s.l.Cluster.Exec(s.ctx, n, "sh", "-c", script, "sh", process); err != nil {
			return fmt.Errorf("kill %s on %s: %w: %s", process, n, err, out)
		}
	}
	return nil
}

// whole demands the end state of everything: pods ready, replicas in sync, writers at work.
func (s *story) whole(disks int) error {
	if err := s.l.Until(s.ctx, 3*time.Minute, "every pod of IOMesh is ready", func(ctx context.Context) string { return s.l.NotRunning(ctx) }); err != nil {
		return err
	}
	return s.undisturbed(disks)
}

func (s *story) installKilled() error {
	values, err := s.l.Values(s.tag)
	if err != nil {
		return err
	}
	h := &hunt{victims: []string{thePlugin}, every: 2, kills: 3}
	if err := s.hunted(h, "install", "-f", values, "--wait", "--timeout", "4m"); err != nil {
		return err
	}
	return s.l.Until(s.ctx, 2*time.Minute, "every pod of IOMesh is ready", func(ctx context.Context) string { return s.l.NotRunning(ctx) })
}

func (s *story) upgradeKilled(next lab.Version) error {
	if err := s.l.Cluster.ImportImage(s.ctx, next.Archive); err != nil {
		return err
	}
	if err := s.pauses(); err != nil { // what was before
		return err
	}
	h := &hunt{victims: []string{thePlugin, theOperator, thePlugin, theAgents}, every: 3, kills: 8}
	if err := s.hunted(h, "upgrade", "--image", "iomesh/iomesh:"+next.Tag, "--wait", "--timeout", "8m"); err != nil {
		return err
	}
	if err := s.whole(4); err != nil {
		return err
	}
	return s.l.Until(s.ctx, time.Minute, "everything says that it is version B", func(ctx context.Context) string { return s.l.Runs(ctx, next) })
}

func (s *story) replaceKilled() error {
	list, err := s.disksAway()
	if err != nil {
		return err
	}
	h := &hunt{victims: []string{thePlugin, theAgents, theOperator}, every: 1, kills: 6}
	if err := s.hunted(h, "disk", "replace", list[0].name, "--confirm", "iomesh", "--timeout", "6m"); err != nil {
		return err
	}
	if err := s.claimed(list[1].name, list[0].name); err != nil {
		return err
	}
	return s.whole(4)
}

// claimed demands that one disk is in use and another one is not.
func (s *story) claimed(in, out string) error {
	for name, want := range map[string]string{in: "Claimed", out: "Unclaimed"} {
		if got, err := s.l.Kubectl(s.ctx, "-n", lab.Namespace, "get", "bd", name, "-o", "jsonpath={.status.claimState}"); err != nil || got != want {
			return fmt.Errorf("disk %s is %q, want %s: %w", name, got, want, err)
		}
	}
	return nil
}

func (s *story) removeKilled() error {
	nodes, err := s.l.Cluster.Nodes()
	if err != nil {
		return err
	}
	h := &hunt{victims: []string{theOperator, thePlugin, theAgents}, every: 2, kills: 6}
	if err := s.hunted(h, "node", "remove", nodes[0], "--confirm", nodes[0], "--timeout", "8m"); err != nil {
		return err
	}
	if err := s.membersOff(nodes[0]); err != nil {
		return err
	}
	st, err := s.l.Status(s.ctx)
	if err != nil {
		return err
	}
	for _, n := range st.Nodes {
		if n.Name == nodes[0] && n.State != "" {
			return fmt.Errorf("node %s is still %s", n.Name, n.State)
		}
	}
	return s.whole(3)
}

func (s *story) uninstallKilled() error {
	if err := s.removeVolumes(); err != nil {
		return err
	}
	h := &hunt{victims: []string{theOperator, theAgents, thePlugin}, every: 1, kills: 6}
	if err := s.hunted(h, "uninstall", "--confirm", "iomesh", "--timeout", "6m"); err != nil {
		return err
	}
	return s.l.Until(s.ctx, 2*time.Minute, "nothing is left", func(ctx context.Context) string { return s.leftovers(ctx, false) })
}
