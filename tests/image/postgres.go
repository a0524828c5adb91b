package image

import (
	"context"
	"slices"
	"strings"
)

// PostgresRef is the image of a real database for the end-to-end tests.
const PostgresRef = "iomesh/test-postgres:15"

// postgresTrees are the parts of Debian's packages that a server and its tools need.
var postgresTrees = []string{"usr/lib/postgresql/15/", "usr/share/postgresql/15/", "usr/share/zoneinfo/"}

// postgresLeftOut are parts that would be most of the image: just-in-time compilation, and languages with interpreters of their own.
var postgresLeftOut = []string{"llvmjit", "/bitcode/", "plperl", "plpython", "pltcl", "/man/"}

// postgresExcept are families of packages that only those parts, and scripts of the packaging, need.
var postgresExcept = []string{"python3", "libpython3", "perl", "libperl", "libllvm", "libz3", "libclang", "media-types", "locales"}

// Postgres makes an image with PostgreSQL of Debian 12, pgbench and amcheck, a shell, and the user postgres (999).
func (b Builder) Postgres(ctx context.Context) (Image, error) {
	l := NewLayer()
	kept := func(p string) bool {
		under := func(t string) bool { return strings.HasPrefix(p, t) }
		if slices.ContainsFunc(keptTrees, under) {
			return !slices.Contains(leftOut, p)
		}
		return slices.ContainsFunc(postgresTrees, under) && !slices.ContainsFunc(postgresLeftOut, func(part string) bool { return strings.Contains(p, part) })
	}
	packages := append(Packages(), "postgresql-15", "postgresql-client-15", "tzdata")
	if err := l.packages(ctx, packages, postgresExcept, kept, b.Debs); err != nil {
		return Image{}, err
	}
	if err := l.applets(ctx); err != nil {
		return Image{}, err
	}
	l.Data("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999:postgres:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"))
	l.Data("etc/group", 0o644, []byte("root:x:0:\npostgres:x:999:\nnogroup:x:65534:\n"))
	return Image{Ref: PostgresRef, Layer: l}, nil
}
