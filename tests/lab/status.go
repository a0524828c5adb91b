package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Status is what of `kubectl iomesh status -o json` the tests look at.
type Status struct {
	Health string `json:"health"`
	Reason string `json:"reason"`
	Nodes  []struct {
		Name         string `json:"name"`
		State        string `json:"state"`
		OwnedVolumes int    `json:"ownedVolumes"`
		Version      string `json:"version"`
	} `json:"nodes"`
	Disks struct {
		Active int `json:"active"`
	} `json:"disks"`
	Volumes struct {
		Total       int `json:"total"`
		Degraded    int `json:"degraded"`
		Unavailable int `json:"unavailable"`
	} `json:"volumes"`
	Resync struct {
		LeftBytes int64 `json:"bytesLeft"`
	} `json:"resync"`
}

// Status reads the state of the cluster through the plugin. Problems found (exit code 3) are no error.
func (l *Lab) Status(ctx context.Context) (Status, error) {
	var st Status
	out, err := l.Run(ctx, "kubectl-iomesh", "status", "-o", "json")
	var ce *CommandError
	if err != nil && (!errors.As(err, &ce) || ce.ExitCode() != 3) {
		return st, err
	}
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return st, fmt.Errorf("kubectl iomesh status -o json: %w", err)
	}
	return st, nil
}

// Volume is what of `kubectl iomesh volume list -o json` the tests look at.
type Volume struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	PVC       string `json:"persistentVolumeClaim"`
	OwnerNode string `json:"ownerNode"`
	Health    string `json:"health"`
}

// Storaged runs `storaged ctl` in a meta pod, as the administrator does at 3 a.m.
func (l *Lab) Storaged(ctx context.Context, args ...string) (string, error) {
	var last error
	for i := range 3 {
		pod := fmt.Sprintf("iomesh-meta-%d", i)
		ip, err := l.Kubectl(ctx, "-n", Namespace, "get", "pod", pod, "-o", "jsonpath={.status.podIP}")
		if err == nil {
			var out string
			out, err = l.Kubectl(ctx, append([]string{"-n", Namespace, "exec", pod, "-c", "meta", "--", "storaged", "ctl",
				"--meta", net.JoinHostPort(strings.TrimSpace(ip), "10100"), "--tls-dir", "/etc/iomesh/tls"}, args...)...)
			if err == nil {
				return out, nil
			}
		}
		last = err
	}
	return "", last
}
