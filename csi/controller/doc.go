// Package controller is the Controller service of CSI over the control interface of the block service.
//
// It keeps nothing: a volume's id is its id in the block service, a node's id is its initiator name (package nodename), and every
// call there is idempotent. So any number of controllers may run, be killed at any point, and repeat each other's calls.
//
// # Attachment (invariant I16)
//
// ControllerPublishVolume makes a grant for one initiator; the owner of the volume serves nobody else. What it returns to Kubernetes
// (the publish context) says where the target is, but no secret: the node fetches that itself over mTLS. Unpublish takes the grant
// away and returns only when no write of that initiator can arrive any more, whether its node is alive, frozen or cut off.
// So the volume is released as soon as Kubernetes asks, and nothing here has to know whether a node is dead.
package controller
