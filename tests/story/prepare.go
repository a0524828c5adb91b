package story

import (
	"fmt"
	"strings"

	"github.com/iomesh/iomesh/tests/lab"
)

// multipathd is a daemon of this name as far as the agent speaks with it: it has read its configuration when it was told to, and shows what it has read.
const multipathd = `#!/bin/sh
case "$1" in
show) cat /run/multipathd.config 2>/dev/null ;;
reconfigure) cat /etc/multipath.conf /etc/multipath/conf.d/*.conf >/run/multipathd.config 2>/dev/null ;;
*) echo $$ >/run/multipathd.pid; while :; do sleep 3600; done ;;
esac
true
`

// What is looked at on a node: the files that preparation may write, what multipathd has read, and the record.
const preparedFiles = `find /etc/multipath /etc/multipath.conf /etc/modules-load.d 2>/dev/null | sort; cat /run/multipathd.config 2>/dev/null; cat /var/lib/iomesh/agent/prepared.json 2>/dev/null; true`

// prepareNode has the last node prepared through the plugin, asks what was recorded, and has it put back. The node runs a multipathd, which is to
// leave IOMesh's volumes alone; modules and daemons of the kernel's initiator are the machine's, which may lack them.
func (s *story) prepareNode() error {
	nodes, err := s.l.Cluster.Nodes()
	if err != nil {
		return err
	}
	node := nodes[len(nodes)-1]
	on := func(script string, args ...string) (string, error) {
		out, err := s.l.Cluster.Exec(s.ctx, node, append([]string{"sh", "-c", script, "sh"}, args...)...)
		if err != nil {
			return out, fmt.Errorf("%w: %s", err, out)
		}
		return out, nil
	}
	if _, err := on(`mkdir -p /opt/bin && printf %s "$1" >/opt/bin/multipathd && chmod 755 /opt/bin/multipathd && setsid --fork /opt/bin/multipathd </dev/null >/dev/null 2>&1`, multipathd); err != nil {
		return err
	}
	defer func() {
		_, _ = on(`kill "$(cat /run/multipathd.pid)"; rm -f /opt/bin/multipathd /run/multipathd.*`)
	}()
	before, err := on(preparedFiles)
	if err != nil {
		return err
	}
	if _, err := s.plugin3("node", "prepare", node, "--dry-run"); err != nil {
		return err
	}
	if now, err := on(preparedFiles); err != nil || now != before {
		return fmt.Errorf("a dry run has changed node %s: %s, before: %s (%w)", node, now, before, err)
	}
	if _, err := s.plugin3("node", "prepare", node, "--yes"); err != nil {
		return err
	}
	after, err := on(preparedFiles)
	if err != nil {
		return err
	}
	s.l.Say("node %s now has\n%s", node, after)
	for _, want := range []string{"/etc/multipath/conf.d/iomesh.conf\n", `vendor "IOMESH"`, `"version"`, `"step"`, `"multipath"`, `"wrote"`} {
		if !strings.Contains(after, want) {
			return fmt.Errorf("node %s lacks %s", node, want)
		}
	}
	if _, err := s.plugin3("node", "prepare", node); err != nil { // without --yes: there is nothing to confirm any more
		return err
	}
	if _, err := s.plugin3("node", "prepare", node, "--undo", "--yes"); err != nil {
		return err
	}
	if now, err := on(preparedFiles); err != nil || now != before {
		return fmt.Errorf("node %s is not as it was before: %s, before: %s (%w)", node, now, before, err)
	}
	return nil
}

// plugin3 is a command of the plugin that may end with "ran well, and something is lacking".
func (s *story) plugin3(args ...string) (string, error) {
	out, err := s.l.Plugin(s.ctx, args...)
	var ce *lab.CommandError
	if asCommand(err, &ce) && ce.ExitCode() == 3 {
		return ce.Output, nil
	}
	return out, err
}
