// Package image makes container images without a container tool and without a
// registry: Debian packages are fetched with apt-get(8), unpacked in memory,
// reduced to what is needed, and written as a docker-archive that
// `ctr images import` and `docker load` read.
//
// An image is one layer:
//
//	OUT.tar
//	  manifest.json      [{"Config": "<sha256>.json", "RepoTags": [REF], "Layers": ["layer.tar"]}]
//	  <sha256>.json      image configuration; diff_ids holds the layer's SHA-256
//	  layer.tar          the root file system
//
// The same input gives the same bytes: entries are sorted, owned by 0:0 and
// dated 1970, and nothing about the machine or the time enters.
//
// packages.txt names the Debian packages whose programs IOMesh calls; the
// release Dockerfile installs the same list. Of the packages those depend on,
// only the shared libraries are taken that a program really links to, so the
// image has neither a package manager nor perl nor python.
package image
