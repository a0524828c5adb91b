// Command krew packs the plugin for release: one archive per platform with the binary, its completion helper and the licence, the
// checksums, and the krew manifest that names them.
//
//	go run ./krew --version v0.1.0 --out dist
//
// Archives are reproducible: the same source, Go and version give the same bytes (fixed times, owners and order; -trimpath). With
// --binaries DIR nothing is compiled: DIR/<os>-<arch>/kubectl-iomesh[.exe] is packed, and platforms without one are left out.
//
// The manifest is made from iomesh.yaml in this directory, a text/template with .Version, .BaseURL and .Platforms.
package main
