// Package version says which build this is.
package version

import (
	"runtime/debug"
)

// version is set by the linker (Makefile).
var version string

// String is the version of this build: the tag it was released under, otherwise the module version or commit, otherwise "devel".
func String() string {
	if version != "" {
		return version
	}
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, s := range bi.Settings {
			if s.Key == "vcs.revision" {
				return s.Value[:min(12, len(s.Value))]
			}
		}
		if bi.Main.Version != "" && bi.Main.Version != "(devel)" {
			return bi.Main.Version
		}
	}
	return "devel"
}
