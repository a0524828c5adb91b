// Package params reads what a StorageClass says: its parameters and the volume capabilities made of its claims. Everything
// unknown is refused at once, with the list of what is valid: a mistyped parameter must not make a volume with other properties.
package params

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/iomesh/iomesh/csi/code"
)

// Names of parameters.
const (
	keyReplicaFactor = "replicaFactor"
	keyThin          = "thinProvision"
	keyAuth          = "auth"
	keyRestrict      = "restrictTopology"
	// FSTypeKey is consumed by the provisioner and reaches us as a capability; it may also come as it is.
	FSTypeKey    = "csi.storage.k8s.io/fstype"
	sidecarGroup = "csi.storage.k8s.io/"
)

// Parameters of a StorageClass.
type Parameters struct {
	// ReplicaFactor is the number of copies: 2 or 3.
	ReplicaFactor uint32
	// Thick reserves the whole size at once.
	Thick bool
	// Auth means that the user's own CHAP secrets are used instead of generated ones.
	Auth bool
	// RestrictTopology keeps pods and replicas on the nodes of the class's allowedTopologies.
	RestrictTopology bool
	// FSType is "" if the class does not say.
	FSType string
}

// known is every parameter with its values, for the error.
var known = map[string]string{
	keyReplicaFactor: `"2" (default), "3"`,
	keyThin:          `"true" (default), "false"`,
	keyAuth:          `"true", "false" (default)`,
	keyRestrict:      `"true", "false" (default)`,
	FSTypeKey:        `"ext4" (default), "xfs", "ext3", "ext2"`,
}

// sidecar parameters that may reach us when a sidecar does not strip them, or adds them (--extra-create-metadata).
var sidecar = map[string]bool{
	"pvc/name": true, "pvc/namespace": true, "pv/name": true,
	"volumesnapshot/name": true, "volumesnapshot/namespace": true, "volumesnapshotcontent/name": true,
	"provisioner-secret-name": true, "provisioner-secret-namespace": true,
	"controller-publish-secret-name": true, "controller-publish-secret-namespace": true,
	"node-stage-secret-name": true, "node-stage-secret-namespace": true,
	"node-publish-secret-name": true, "node-publish-secret-namespace": true,
	"controller-expand-secret-name": true, "controller-expand-secret-namespace": true,
	"node-expand-secret-name": true, "node-expand-secret-namespace": true,
}

// Parse reads the parameters of a StorageClass.
func Parse(in map[string]string) (Parameters, error) {
	p := Parameters{ReplicaFactor: 2}
	for _, key := range slices.Sorted(maps.Keys(in)) {
		value := in[key]
		var err error
		switch key {
		case keyReplicaFactor:
			n, perr := strconv.ParseUint(value, 10, 32)
			if perr != nil || n != 2 && n != 3 {
				err = wrong(key, value)
			}
			p.ReplicaFactor = uint32(n)
		case keyThin:
			var thin bool
			thin, err = boolean(key, value)
			p.Thick = !thin
		case keyAuth:
			p.Auth, err = boolean(key, value)
		case keyRestrict:
			p.RestrictTopology, err = boolean(key, value)
		case FSTypeKey:
			p.FSType = value
			if _, ok := filesystems[value]; !ok {
				err = wrong(key, value)
			}
		default:
			if rest, ok := strings.CutPrefix(key, sidecarGroup); !ok || !sidecar[rest] {
				err = code.New(code.Invalid, "StorageClass parameter %q is unknown; valid are %s", key, list())
			}
		}
		if err != nil {
			return Parameters{}, err
		}
	}
	return p, nil
}

func boolean(key, value string) (bool, error) {
	switch value {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, wrong(key, value)
}

func wrong(key, value string) error {
	return code.New(code.Invalid, "StorageClass parameter %s: %q is not valid; want one of %s", key, value, known[key])
}

func list() string {
	parts := make([]string, 0, len(known))
	for _, key := range slices.Sorted(maps.Keys(known)) {
		parts = append(parts, fmt.Sprintf("%s: %s", key, known[key]))
	}
	return strings.Join(parts, "; ")
}
