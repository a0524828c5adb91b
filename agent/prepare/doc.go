// Package prepare makes a machine ready for the kernel's own iSCSI initiator, and takes that back.
//
// Nothing here happens by itself. Somebody asks for a plan, reviews it, and asks for exactly that plan to be carried out: `kubectl iomesh node
// prepare`, through the agent. What the machine should have is what package preflight looks for:
//
//	iscsi-module  kernel module iscsi_tcp is loaded, and is loaded at each start by /etc/modules-load.d/iomesh.conf
//	iscsid        the daemon runs, and is started at each start; a missing package is named, not installed
//	multipath     where multipathd runs, its blacklist names our volumes (/etc/multipath/conf.d/iomesh.conf), and it has read that
//
// # The record
//
// Before a step changes anything, the state that it finds is written to <state directory>/prepared.json and flushed. The file is there
// exactly as long as there may be something to take back:
//
//	version  1
//	entries  one per step, in the order of the first change of each
//	  step     iscsi-module, iscsid or multipath
//	  file     before: nothing, or content, mode, owner and group; wrote: each content that we put there; made: directories made for it
//	  modules  those of iscsi_tcp and what it stands on that were loaded
//	  units    name, and whether it was enabled and active
//
// An entry is made once. Preparing again keeps it, so that it tells of the machine before the first time. The one exception is a file that
// somebody else has changed since: what they made of it is what is kept then.
//
// # Kills
//
// Each step looks at the machine and does what is lacking, and each part of taking it back does the same the other way round. So a run that
// was killed between any two changes is finished by the next run, of either kind. Files are replaced by a rename after a flush; the
// temporary file has a fixed name that no reader of the directory matches, and the next run removes it.
//
// # Taking it back
//
// Undo goes through the record from its end and restores what it says. A thing that is neither as we left it nor as it was before was
// changed by somebody else: it is left alone and reported. A module or daemon that other sessions use is left alone and reported too. While
// volumes of IOMesh are attached by the initiator, nothing is taken back at all. At its end the record is deleted.
//
// # Reaching the machine
//
// Files are opened below the machine's root directory (os.Root: a symbolic link that leads out of it, which any absolute one does as seen from
// the container, is refused and never followed into the container's own files). Programs are those of the machine, run by argument lists in
// the namespaces of its first process. There is no shell.
package prepare
