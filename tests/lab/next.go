package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// Version is one of IOMesh, as an image.
type Version struct {
	Tag     string // of iomesh/iomesh
	Name    string // what its programs say that they are
	Archive string // of the image
}

// Current is the version that hack/lab-build.sh has built under a tag.
func (l *Lab) Current(ctx context.Context, tag string) (Version, error) {
	out, err := exec.CommandContext(ctx, filepath.Join(l.Bin, "storaged"), "--version").Output()
	if err != nil {
		return Version{}, fmt.Errorf("ask storaged for its version: %w", err)
	}
	return Version{Tag: tag, Name: lastWord(string(out)), Archive: filepath.Join(l.Root, "build", "images", "iomesh.tar")}, nil
}

// BuildNext builds the same sources as another version, so that all programs of it, and the image, differ from the current one in their bytes.
func (l *Lab) BuildNext(ctx context.Context, current Version) (Version, error) {
	v := Version{Tag: current.Tag + "-b", Name: current.Name + "-b", Archive: filepath.Join(l.Root, "build", "images", "iomesh-b.tar")}
	bin := filepath.Join(l.Root, "build", "bin-b")
	flags := "-s -w -X github.com/iomesh/iomesh/internal/version.version=" + v.Name
	mkimage := []string{filepath.Join(l.Root, "build", "mkimage"), "iomesh", "--bin", bin, "--tag", v.Tag, "-o", v.Archive}
	programs := [][2]string{{"storaged", "./storaged"}, {"iomesh-agent", "./agent"}, {"iomesh-csi", "./csi"}, {"iomesh-attach", "./attach"}, {"iomesh-operator", "./operator"}}
	var lines [][]string
	for _, p := range programs {
		lines = append(lines, []string{"go", "build", "-ldflags", flags, "-o", filepath.Join(bin, p[0]), p[1]})
		mkimage = append(mkimage, "--require", p[0])
	}
	l.Say("building version %s", v.Name)
	for _, argv := range append(lines, mkimage) {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Dir = l.Root
		if out, err := cmd.CombinedOutput(); err != nil {
			return Version{}, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, out)
		}
	}
	return v, nil
}

// Runs says which program of IOMesh does not run as a version, "" when all do: what the containers' programs say of themselves, and what the chunks have
// told the metadata members. The attach pods are left out: they carry the volumes of running pods and are not restarted while there are any.
func (l *Lab) Runs(ctx context.Context, v Version) string {
	out, err := l.Kubectl(ctx, "-n", Namespace, "get", "pods", "-l", "app.kubernetes.io/component in (controller,meta,chunk,node)", "-o",
		`jsonpath={range .items[*]}{range .spec.containers[*]}{.image} {.name} {.command[0]}{"\n"}{end}{.metadata.name}{"\n"}{end}`)
	if err != nil {
		return err.Error()
	}
	var programs [][2]string // container and program of the pod whose name follows
	asked := 0
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		switch {
		case len(f) == 3 && strings.HasPrefix(f[0], "iomesh/iomesh:"):
			if f[0] != "iomesh/iomesh:"+v.Tag {
				return "container " + f[1] + " has the image " + f[0]
			}
			programs = append(programs, [2]string{f[1], f[2]})
		case len(f) == 1:
			for _, p := range programs {
				text, err := l.Kubectl(ctx, "-n", Namespace, "exec", f[0], "-c", p[0], "--", p[1], "--version")
				if err != nil {
					return err.Error()
				}
				if lastWord(text) != v.Name {
					return fmt.Sprintf("%s of pod %s says it is %s", p[1], f[0], strings.TrimSpace(text))
				}
				asked++
			}
			programs = nil
		}
	}
	if asked == 0 {
		return "no program was asked:\n" + out
	}
	st, err := l.Status(ctx)
	if err != nil {
		return err.Error()
	}
	for _, n := range st.Nodes {
		if n.Version != v.Name {
			return "the chunk of node " + n.Name + " has said that it is " + n.Version
		}
	}
	var told struct {
		Images map[string]string `json:"images"`
	}
	if out, err = l.Run(ctx, "kubectl-iomesh", "version", "-o", "json"); err == nil {
		err = json.Unmarshal([]byte(out), &told)
	}
	if err != nil {
		return err.Error()
	}
	for _, component := range []string{"controller", "meta", "chunk", "node"} {
		if told.Images[component] != "iomesh/iomesh:"+v.Tag {
			return "kubectl iomesh version says that " + component + " runs " + told.Images[component]
		}
	}
	l.Say("%d programs say that they are %s", asked, v.Name)
	return ""
}

func lastWord(s string) string {
	f := strings.Fields(s)
	if len(f) == 0 {
		return ""
	}
	return f[len(f)-1]
}
