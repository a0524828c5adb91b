package story

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

// Repair is a year of an administrator's life: a disk replaced, a disk that dies, a reboot, a node that goes for good. The cluster has four
// nodes with two disks each, of which the first are mapped; the second ones are spare. Writers run through all of it.
func Repair(ctx context.Context, l *lab.Lab, tag string) error {
	s := &story{l: l, ctx: ctx, tag: tag}
	return s.play([]chapter{
		{"install", s.install},
		{"map the first disk of each node", s.mapFirst},
		{"volumes and pods that write", s.volumes},
		{"a disk is replaced", s.replaceDisk},
		{"a disk dies", s.deadDisk},
		{"a node is rebooted", s.reboot},
		{"a node goes for good", s.removeNode},
		{"every record is there", s.reread},
	}, 0)
}

// device is a BlockDevice.
type device struct{ name, node, path, backing string }

func (s *story) devices() ([]device, error) {
	out, err := s.l.Kubectl(s.ctx, "-n", lab.Namespace, "get", "bd", "-o",
		`jsonpath={range .items[*]}{.metadata.name} {.spec.node} {.spec.path} {.spec.identity.backingFile}{"\n"}{end}`)
	if err != nil {
		return nil, err
	}
	var list []device
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) == 4 {
			list = append(list, device{f[0], f[1], f[2], f[3]})
		}
	}
	slices.SortFunc(list, func(a, b device) int { return strings.Compare(a.node+a.backing, b.node+b.backing) })
	return list, nil
}

// on lists the devices of a node by the names of their files.
func (s *story) on(node string) ([]device, error) {
	list, err := s.devices()
	return slices.DeleteFunc(list, func(d device) bool { return d.node != node }), err
}

func (s *story) mapFirst() error {
	nodes, err := s.l.Cluster.Nodes()
	if err != nil {
		return err
	}
	if err := s.l.Until(s.ctx, time.Minute, "the agents have published the disks", func(context.Context) string {
		list, err := s.devices()
		if err != nil {
			return err.Error()
		}
		if len(list) < 2*len(nodes) {
			return fmt.Sprintf("%d disks", len(list))
		}
		return ""
	}); err != nil {
		return err
	}
	args := []string{"disk", "map", "--mount-type", "dataStoreWithJournal", "--confirm", "iomesh", "--wait", "--timeout", "3m"}
	for _, n := range nodes {
		list, err := s.on(n)
		if err != nil {
			return err
		}
		args = append(args, "--device", list[0].name)
	}
	if _, err := s.l.Plugin(s.ctx, args...); err != nil {
		return err
	}
	return s.healthy("the pool is up")
}

// away is a node that has a replica of the writer's volume and does not run the pod, so that the pod's device stays where it is.
func (s *story) away() (string, error) {
	pod, err := nodeOf(s.ctx, s.l, fsPod)
	if err != nil {
		return "", err
	}
	out, err := s.l.Storaged(s.ctx, "volume", "show", "--extents", s.fsID, "-o", "json")
	if err != nil {
		return "", err
	}
	nodes, err := s.l.Cluster.Nodes()
	if err != nil {
		return "", err
	}
	for _, n := range nodes {
		if n != pod && strings.Contains(out, `"node": "`+n+`"`) {
			return n, nil
		}
	}
	return "", fmt.Errorf("no node but %s has a replica of the volume: %s", pod, out)
}

// disksAway are the disks of a node that has a replica of the volume and not the pod.
func (s *story) disksAway() ([]device, error) {
	node, err := s.away()
	if err != nil {
		return nil, err
	}
	return s.on(node)
}

func (s *story) replaceDisk() error {
	list, err := s.disksAway()
	if err != nil {
		return err
	}
	if _, err := s.l.Plugin(s.ctx, "disk", "replace", list[0].name, "--confirm", "iomesh", "--timeout", "5m"); err != nil {
		return err
	}
	return s.wrote()
}

// wrote tells what the writers had of it.
func (s *story) wrote() error {
	if err := s.progress(s.fs, 50); err != nil {
		return err
	}
	acked, longest, err := s.fs.state()
	if err != nil {
		return err
	}
	s.l.Say("%s goes on: %d records, longest pause %.1f s", fsPod, acked, longest.Seconds())
	return nil
}

// deadDisk shrinks a loop device in use to nothing: every request to it fails from then on, as with a disk whose electronics have died.
func (s *story) deadDisk() error {
	node, err := s.away()
	if err != nil {
		return err
	}
	list, err := s.on(node)
	if err != nil {
		return err
	}
	out, err := s.l.Kubectl(s.ctx, "-n", lab.Namespace, "get", "bd", "-o", `jsonpath={range .items[?(@.status.claimState=="Claimed")]}{.metadata.name} {end}`)
	if err != nil {
		return err
	}
	used := strings.Fields(out)
	i := slices.IndexFunc(list, func(d device) bool { return slices.Contains(used, d.name) })
	if i < 0 {
		return fmt.Errorf("no disk of %s is in use: %v", node, list)
	}
	victim := list[i]
	s.dead = victim.backing
	s.l.Say("%s on %s (%s) dies", victim.name, node, victim.path)
	for _, argv := range [][]string{{"truncate", "-s", "4096", victim.backing}, {"losetup", "-c", victim.path}} {
		if out, err := s.l.Cluster.Exec(s.ctx, node, argv...); err != nil {
			return fmt.Errorf("%v: %w: %s", argv, err, out)
		}
	}
	if err := s.l.Until(s.ctx, time.Minute, "status names the disk", func(ctx context.Context) string {
		st, err := s.l.Status(ctx)
		if err != nil {
			return err.Error()
		}
		if st.Health == "OK" {
			return "health " + st.Health
		}
		return ""
	}); err != nil {
		return err
	}
	if err := s.status(); err != nil {
		return err
	}
	with := list[1-i].name
	if slices.Contains(used, with) {
		return fmt.Errorf("node %s has no spare disk", node)
	}
	if _, err := s.l.Plugin(s.ctx, "disk", "replace", victim.name, "--with", with, "--confirm", "iomesh", "--timeout", "5m"); err != nil {
		return err
	}
	return s.wrote()
}

func (s *story) reboot() error {
	node, err := s.away()
	if err != nil {
		return err
	}
	if _, err := s.l.Plugin(s.ctx, "node", "maintenance", node); err != nil {
		return err
	}
	if err := s.l.Cluster.PowerOff(s.ctx, node); err != nil {
		return err
	}
	if err := s.wrote(); err != nil {
		return err
	}
	if err := s.l.Cluster.Boot(s.ctx, node); err != nil {
		return err
	}
	if err := s.l.Until(s.ctx, 2*time.Minute, "every pod of IOMesh is ready", func(ctx context.Context) string { return s.l.NotRunning(ctx) }); err != nil {
		return err
	}
	if _, err := s.l.Plugin(s.ctx, "node", "maintenance", node, "--end"); err != nil {
		return err
	}
	return s.healthy("all replicas are in sync again")
}

// removeNode takes out the node without a metadata member, whatever runs there.
func (s *story) removeNode() error {
	out, err := s.l.Kubectl(s.ctx, "-n", lab.Namespace, "get", "pods", "-l", "app.kubernetes.io/component=meta", "-o", "jsonpath={.items[*].spec.nodeName}")
	if err != nil {
		return err
	}
	nodes, err := s.l.Cluster.Nodes()
	if err != nil {
		return err
	}
	nodes = slices.DeleteFunc(nodes, func(n string) bool { return slices.Contains(strings.Fields(out), n) })
	if len(nodes) == 0 {
		return fmt.Errorf("every node has a metadata member: %s", out)
	}
	if _, err := s.l.Plugin(s.ctx, "node", "remove", nodes[0], "--confirm", nodes[0], "--timeout", "5m"); err != nil {
		return err
	}
	if err := s.wrote(); err != nil {
		return err
	}
	return s.status()
}

// reread starts the writer anew, which reads all records from the first.
func (s *story) reread() error {
	acked, _, err := s.fs.state()
	if err != nil {
		return err
	}
	s.fs.forget()
	if _, err := s.l.Kubectl(s.ctx, "delete", "pod", fsPod, "--wait"); err != nil {
		return err
	}
	if err := s.l.Until(s.ctx, 2*time.Minute, "pod "+fsPod+" runs", func(ctx context.Context) string { return running(ctx, s.l, fsPod) }); err != nil {
		return err
	}
	if s.fs, err = watch(s.ctx, s.l, fsPod); err != nil {
		return err
	}
	if err := s.progress(s.fs, 20); err != nil {
		return err
	}
	s.fs.mu.Lock()
	verified := s.fs.verified
	s.fs.mu.Unlock()
	s.l.Say("records acknowledged: %d; found unbroken: %d", acked, verified)
	if verified < acked {
		return fmt.Errorf("acknowledged records are missing: %d were acknowledged, %d are there", acked, verified)
	}
	return nil
}
