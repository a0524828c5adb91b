// Package nodename maps a node of the cluster to its iSCSI initiator name and back.
//
// The initiator name is also the node_id of CSI: the controller then knows from the id alone to whom it grants a volume, and an id
// that no plugin of ours can have made is recognised. Node names are at most 253 bytes, iSCSI names at most 223 (RFC 7143
// §4.2.7.1): a longer node name is cut and ended with a hash, and the cut form stands for the node everywhere.
package nodename

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// Prefix of the initiator name of every node.
const Prefix = "iqn.2016-02.com.iomesh:node:"

// lengthMax keeps the part after the first colon within 180 bytes, which every target and initiator takes.
const lengthMax = 180 - len("node:")

// hashLength is the number of hex digits that tell long names apart.
const hashLength = 16

// Initiator returns the initiator name of a node. The name must be a valid Kubernetes node name.
func Initiator(node string) (string, error) {
	if err := check(node); err != nil {
		return "", err
	}
	if len(node) > lengthMax {
		sum := sha256.Sum256([]byte(node))
		node = node[:lengthMax-hashLength-1] + "-" + hex.EncodeToString(sum[:])[:hashLength]
	}
	return Prefix + node, nil
}

// Node returns the node of an initiator name made by Initiator, or an error for every other name.
func Node(initiator string) (string, error) {
	node, ok := strings.CutPrefix(initiator, Prefix)
	if !ok || len(node) > lengthMax || check(node) != nil {
		return "", fmt.Errorf("%q is not the id of a node of this driver (want %s<node name>)", initiator, Prefix)
	}
	return node, nil
}

// check accepts a DNS subdomain name (RFC 1123), as Kubernetes demands of node names.
func check(node string) error {
	if node == "" || len(node) > 253 {
		return fmt.Errorf("node name %q: want 1 to 253 characters", node)
	}
	for _, label := range strings.Split(node, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return fmt.Errorf("node name %q: want lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit", node)
		}
	}
	return nil
}
