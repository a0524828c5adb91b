package story

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/iomesh/iomesh/tests/lab"
)

// Lifecycle is a cluster from its installation to its removal: it grows, is upgraded and rolled back under load, has a disk replaced, loses a disk and
// its first node, and is uninstalled. The cluster has three nodes with two disks each, of which the first are mapped. Version B is next.
func Lifecycle(ctx context.Context, l *lab.Lab, setup lab.Setup, current, next lab.Version) error {
	s := &story{l: l, ctx: ctx, tag: setup.Tag}
	return s.play([]chapter{
		{"install", s.install},
		{"map the first disk of each node", s.mapFirst},
		{"volumes and pods that write", s.volumes},
		{"a scratch volume is tried, a volume is verified", s.tryVolumes},
		{"a fourth node joins", func() error { return s.scaleOut(setup) }},
		{"upgrade to version B, one node at a time", func() error { return s.upgrade(next) }},
		{"back to version A", func() error { return s.rollback(current) }},
		{"a disk is replaced", s.replaceDisk},
		{"a disk dies", s.deadDisk},
		{"the first node is removed, drained and deleted", s.removeFirst},
		{"every record is there", s.reread},
		{"uninstall is refused while volumes exist, and then leaves nothing", s.uninstall},
	}, 0)
}

func (s *story) tryVolumes() error {
	if _, err := s.l.Plugin(s.ctx, "check", "--volume"); err != nil {
		var ce *lab.CommandError
		// Machines of a test lack what real nodes have; the volume's own steps must be right.
		if !asCommand(err, &ce) || ce.ExitCode() != 3 || strings.Contains(ce.Output, "failed    volume") {
			return err
		}
	}
	_, err := s.l.Plugin(s.ctx, "volume", "verify", s.fsID)
	return err
}

func (s *story) scaleOut(setup lab.Setup) error {
	name, err := s.l.Cluster.AddNode(s.ctx)
	if err != nil {
		return err
	}
	if err := s.l.PrepareNode(s.ctx, name, setup); err != nil {
		return err
	}
	values, err := s.l.Values(s.tag)
	if err != nil {
		return err
	}
	if _, err := s.l.Plugin(s.ctx, "upgrade", "-f", values, "--wait", "--timeout", "4m"); err != nil {
		return err
	}
	var list []device
	if err := s.l.Until(s.ctx, time.Minute, "its disks are published", func(context.Context) string {
		if list, err = s.on(name); err != nil || len(list) < 2 {
			return fmt.Sprintf("%d disks, %v", len(list), err)
		}
		return ""
	}); err != nil {
		return err
	}
	if _, err := s.l.Plugin(s.ctx, "disk", "map", "--mount-type", "dataStoreWithJournal", "--device", list[0].name, "--confirm", "iomesh", "--wait", "--timeout", "3m"); err != nil {
		return err
	}
	return s.healthy("four nodes serve")
}

// upgrade gives the image of another version to the nodes and lets the plugin roll it out.
func (s *story) upgrade(next lab.Version) error {
	if err := s.l.Cluster.ImportImage(s.ctx, next.Archive); err != nil {
		return err
	}
	if err := s.pauses(); err != nil { // what was before
		return err
	}
	if _, err := s.l.Plugin(s.ctx, "upgrade", "--image", "iomesh/iomesh:"+next.Tag, "--wait", "--timeout", "8m"); err != nil {
		return err
	}
	return s.rolled(next)
}

func (s *story) rollback(to lab.Version) error {
	if _, err := s.l.Plugin(s.ctx, "upgrade", "--rollback", "--confirm", "iomesh", "--wait", "--timeout", "8m"); err != nil {
		return err
	}
	return s.rolled(to)
}

// rolled demands that everything runs a version and says so, that the disk map has not changed with it, and tells the writers' longest pauses.
func (s *story) rolled(v lab.Version) error {
	if err := s.l.Until(s.ctx, 3*time.Minute, "everything says that it is "+v.Name, func(ctx context.Context) string { return s.l.Runs(ctx, v) }); err != nil {
		return err
	}
	return s.undisturbed(4)
}

// undisturbed demands that all replicas are in sync and as many disks active as there were, and tells the writers' longest pauses.
func (s *story) undisturbed(disks int) error {
	if err := s.healthy("all replicas are in sync"); err != nil {
		return err
	}
	st, err := s.l.Status(s.ctx)
	if err != nil {
		return err
	}
	if st.Disks.Active != disks {
		return fmt.Errorf("%d disks are active, want %d", st.Disks.Active, disks)
	}
	return s.pauses()
}

// pauses tells the longest time that either writer waited for an acknowledgement since it was asked last.
func (s *story) pauses() error {
	for _, w := range []*witness{s.fs, s.blk} {
		if err := s.progress(w, 50); err != nil {
			return err
		}
		acked, longest, err := w.state()
		if err != nil {
			return err
		}
		s.l.Say("%s goes on: %d records, longest pause %.1f s", w.pod, acked, longest.Seconds())
	}
	return nil
}

// removeFirst takes out the first node, which holds a metadata member and may run anything.
func (s *story) removeFirst() error {
	nodes, err := s.l.Cluster.Nodes()
	if err != nil {
		return err
	}
	first := nodes[0]
	if _, err := s.l.Plugin(s.ctx, "node", "remove", first, "--confirm", first, "--timeout", "8m"); err != nil {
		return err
	}
	if err := s.membersOff(first); err != nil {
		return err
	}
	if _, err := s.l.Show(s.ctx, "kubectl", "drain", first, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout", "3m"); err != nil {
		return err
	}
	// Kubernetes takes what is attached to a node that it does not know any more for in use, for six minutes.
	if err := s.l.Until(s.ctx, time.Minute, "no volume is attached to "+first, func(ctx context.Context) string {
		out, err := s.l.Kubectl(ctx, "get", "volumeattachment", "-o", `jsonpath={range .items[?(@.spec.nodeName=="`+first+`")]}{.spec.source.persistentVolumeName} {end}`)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(out)
	}); err != nil {
		return err
	}
	if _, err := s.l.Show(s.ctx, "kubectl", "delete", "node", first); err != nil {
		return err
	}
	s.fs.forget()
	s.blk.forget()
	for _, pod := range []string{fsPod, blkPod} {
		if err := s.l.Until(s.ctx, 3*time.Minute, "pod "+pod+" runs", func(ctx context.Context) string { return running(ctx, s.l, pod) }); err != nil {
			return err
		}
	}
	if err := s.rejoin(); err != nil {
		return err
	}
	if err := s.progress(s.fs, 20); err != nil {
		return err
	}
	return s.status()
}

// membersOff demands that there are three metadata members, none of them on a node.
func (s *story) membersOff(node string) error {
	out, err := s.l.Kubectl(s.ctx, "-n", lab.Namespace, "get", "pods", "-l", "app.kubernetes.io/component=meta", "-o", "jsonpath={.items[*].spec.nodeName}")
	if err != nil {
		return err
	}
	if members := strings.Fields(out); len(members) != 3 || slices.Contains(members, node) {
		return fmt.Errorf("the metadata members are on %v", members)
	}
	return nil
}

func (s *story) uninstall() error {
	_, err := s.l.Run(s.ctx, "kubectl-iomesh", "uninstall", "--confirm", "iomesh", "--timeout", "1m")
	var ce *lab.CommandError
	if !asCommand(err, &ce) || !strings.Contains(ce.Output, "volume") {
		return fmt.Errorf("uninstall with volumes: %w", err)
	}
	s.l.Say("refused: %s", ce.Output)
	if err := s.removeVolumes(); err != nil {
		return err
	}
	if _, err := s.l.Plugin(s.ctx, "uninstall", "--confirm", "iomesh", "--timeout", "5m"); err != nil {
		return err
	}
	return s.l.Until(s.ctx, 2*time.Minute, "nothing is left", func(ctx context.Context) string { return s.leftovers(ctx, true) })
}

// removeVolumes deletes the writers and their volumes.
func (s *story) removeVolumes() error {
	s.fs.forget()
	s.blk.forget()
	for _, what := range [][]string{{"statefulset", "files", "device"}, {"pvc", fsPVC, blkPVC}, {"storageclass", "story-xfs", "story-block"}} {
		if _, err := s.l.Kubectl(s.ctx, append([]string{"delete", "--wait=true", "--timeout=3m"}, what...)...); err != nil {
			return err
		}
	}
	return s.l.Until(s.ctx, 2*time.Minute, "the volumes have gone", func(ctx context.Context) string {
		out, err := s.l.Storaged(ctx, "volume", "list", "-o", "json")
		if err != nil || strings.Contains(out, `"id"`) {
			return fmt.Sprintf("%s %v", out, err)
		}
		return ""
	})
}

// leftovers names what an uninstallation has left: objects, directories, mounts, loop devices of ours, superblocks. The first node is not looked at
// if it was deleted.
func (s *story) leftovers(ctx context.Context, deleted bool) string {
	var left []string
	out, err := s.l.Kubectl(ctx, "-n", lab.Namespace, "get", "iomesh,bd,pods,sts,ds,deploy,cm,secret,pvc,pdb,lease", "--ignore-not-found", "-o", "name")
	if err != nil {
		return err.Error()
	}
	for name := range strings.FieldsSeq(out) {
		if !strings.Contains(name, "kube-root-ca.crt") { // the namespace's own
			left = append(left, name)
		}
	}
	if out, err = s.l.Kubectl(ctx, "get", "pv,csidriver,volumeattachment", "-o", "name"); err != nil {
		return err.Error()
	}
	left = append(left, strings.Fields(out)...)
	nodes, err := s.l.Cluster.Nodes()
	if err != nil {
		return err.Error()
	}
	if deleted {
		nodes = nodes[1:]
	}
	for _, n := range nodes {
		out, err := s.l.Cluster.Exec(ctx, n, "sh", "-c", `ls -d /var/lib/iomesh /run/iomesh /var/lib/kubelet/plugins_registry/*iomesh* 2>/dev/null; cut -d ' ' -f 5 /proc/self/mountinfo | grep iomesh; losetup -nO NAME,BACK-FILE | grep /run/iomesh; true`)
		if err != nil {
			return err.Error()
		}
		disks, err := s.l.Cluster.Disks(n)
		if err != nil {
			return err.Error()
		}
		for _, d := range disks {
			if d.File == s.dead {
				continue // nothing can be written to it
			}
			// What tells the disk's owner is at its ends.
			ends, err := s.l.Cluster.Exec(ctx, n, "sh", "-c", `{ head -c 1048576 "$1"; tail -c 1048576 "$1"; } | tr -d '\0' | wc -c`, "sh", d.File)
			if err != nil {
				return err.Error()
			}
			if ends = strings.TrimSpace(ends); ends != "0" {
				out += "\n" + d.File + " holds " + ends + " bytes at its ends"
			}
		}
		if out = strings.TrimSpace(out); out != "" {
			left = append(left, n+": "+strings.Join(strings.Fields(out), " "))
		}
	}
	return strings.Join(left, "; ")
}
