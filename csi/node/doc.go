// Package node is the Node service of CSI.
//
//	             NodeStageVolume                      NodePublishVolume
//	grant ──▶ attach ──▶ [format] ──▶ mount at the  ──▶ bind mount at each
//	          (Attacher)             staging path        pod's target path
//
// # Half-done calls
//
// The plugin may be killed at any step, and every call may be repeated. So each step first looks at what is there (the mount table, the
// attacher's list) and only then acts; a [record] per volume on /run says what only this node knows: by which way the volume was
// attached, that a format had begun, and where it is published. It is written before the step it speaks of. /run is emptied by a boot,
// as mounts and sessions are.
//
// A stage that fails for good takes back what it attached, because Kubernetes does not always call NodeUnstageVolume after it.
//
// # Order on the way down
//
// Unpublish removes bind mounts, unstage the mount, then the device, then the session. The attacher refuses to remove a device that is
// still mounted anywhere, so a lost unpublish can never become lost data.
package node
