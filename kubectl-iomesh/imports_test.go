package main

import (
	"os/exec"
	"strings"
	"testing"
)

// TestPluginBuildsEverywhere asks go list for what the plugin would link on each platform it is released for.
func TestPluginBuildsEverywhere(t *testing.T) {
	forbidden := map[string]string{
		"github.com/longhorn/go-iscsi-helper":          "builds on Linux only",
		"github.com/hanwen/go-fuse":                    "builds on Unix only",
		"go.etcd.io/etcd/server":                       "the plugin is no server, and it would double its size",
		"github.com/iomesh/iomesh/storaged":            "the plugin talks to the block service, it is no part of it",
		"github.com/iomesh/iomesh/operator":            "the plugin talks to the operator through its objects",
		"github.com/iomesh/iomesh/agent":               "the plugin talks to agents through api/agent/v1",
		"github.com/iomesh/iomesh/internal/iscsi":      "the plugin opens no iSCSI session",
		"github.com/container-storage-interface/spec/": "the plugin is no CSI driver",
	}
	for _, goos := range []string{"linux", "darwin", "windows"} {
		for _, goarch := range []string{"amd64", "arm64"} {
			t.Run(goos+"/"+goarch, func(t *testing.T) {
				t.Parallel()
				cmd := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}}{{with .Error}} ERROR {{.}}{{end}}", ".")
				cmd.Env = append(cmd.Environ(), "GOOS="+goos, "GOARCH="+goarch, "CGO_ENABLED=0")
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				for _, line := range strings.Split(string(out), "\n") {
					if strings.Contains(line, " ERROR ") {
						t.Error(line)
					}
					for prefix, why := range forbidden {
						if strings.HasPrefix(line, prefix) {
							t.Errorf("imports %s: %s", line, why)
						}
					}
				}
			})
		}
	}
}
