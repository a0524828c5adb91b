package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/iomesh/iomesh/storaged/meta"
)

// restoreCommand is `storaged meta restore`.
func restoreCommand() *cobra.Command {
	var o meta.RestoreOptions
	var members string
	cmd := &cobra.Command{
		Use:   "restore BACKUP --name NAME --members LIST --data-dir DIR",
		Short: "Make the data directory of the first metadata member from a backup",
		Long: `Make the data directory of the first metadata member from a backup: a file of "storaged ctl meta backup", or one of those that every chunk keeps.

Only when all members have lost their metadata. Stop all members, move the data directories of all away, run this where the first of --members runs, start it
there, then start the others with empty directories: they join. Chunks start again by themselves. Each volume serves once all disks have been heard of
and its replicas compared with the backup; while disks are missing it is refused with the reason, until "storaged ctl volume accept-loss".
What was created after the backup (volumes, snapshots, grants) is not known any more; replicas of unknown volumes are kept on the disks.`,
		Args: cobra.ExactArgs(1),
	}
	log := logFlag(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Name, "name", "", "name of this member, the first of --members")
	f.StringVar(&members, "members", "", "all members, as the daemon is given them")
	f.StringVar(&o.DataDir, "data-dir", "/var/lib/iomesh/meta", "directory to make; must hold no member")
	f.StringVar(&o.TLSDir, "tls-dir", "/etc/iomesh/tls", "credentials of the member; empty if it runs without")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var err error
		if o.Log, err = log(); err != nil {
			return err
		}
		if o.Members, err = meta.ParseMembers(members); err != nil {
			return err
		}
		o.Backup = args[0]
		r, err := meta.Restore(cmd.Context(), o)
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "restored cluster %s with %d volumes into %s, incarnation %d; start this member, then the others with empty directories\n",
			r.Cluster.ID, r.Volumes, o.DataDir, r.Cluster.Incarnation)
		return nil
	}
	return cmd
}
