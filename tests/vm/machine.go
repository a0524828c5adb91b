package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// machine is the running virtual machine.
type machine struct {
	cmd     *exec.Cmd
	exited  chan error
	console string
	booted  time.Duration
}

// bootMax is for a machine that is very busy; an idle one boots in half a minute.
const bootMax = 15 * time.Minute

const guestURL = "http://10.77.0.2:7001"

// writePayload makes the guest's second disk: programs and credentials as a tar archive, rounded up to whole sectors.
func writePayload(path string, programs map[string]string, tlsDir string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	add := func(name, from string, mode int64) error {
		b, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: mode, Size: int64(len(b))}); err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}
	for name, from := range programs {
		if err := add(name, from, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"ca.crt", "tls.crt", "tls.key"} {
		if err := add("tls/"+name, filepath.Join(tlsDir, name), 0o600); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	return f.Truncate((end + 1<<20 - 1) &^ (1<<20 - 1))
}

func startMachine(ctx context.Context, image, payload, console string) (*machine, error) {
	log, err := os.Create(console)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	m := &machine{exited: make(chan error, 1), console: console}
	m.cmd = exec.Command("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024",
		"-kernel", filepath.Join(image, "vmlinuz"), "-initrd", filepath.Join(image, "initrd"),
		"-append", "root=/dev/vda rw console=ttyS0 systemd.journald.forward_to_console=1 net.ifnames=0 mitigations=off systemd.default_timeout_start_sec=900",
		"-drive", "file="+filepath.Join(image, "root.img")+",if=virtio,format=raw,snapshot=on,cache=unsafe",
		"-drive", "file="+payload+",if=virtio,format=raw,readonly=on",
		"-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=n0", "-nographic", "-no-reboot")
	m.cmd.Stdout, m.cmd.Stderr = log, log
	start := time.Now()
	if err := m.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the virtual machine: %w (Debian package qemu-system-x86)", err)
	}
	go func() { m.exited <- m.cmd.Wait() }()
	err = poll(ctx, bootMax, "the guest answers", func() bool {
		_, err := m.exec(5, "true")
		return err == nil
	})
	m.booted = time.Since(start)
	return m, err
}

// off powers the machine off, the hard way if it does not listen.
func (m *machine) off() {
	_, _ = m.exec(5, "systemctl", "poweroff", "--no-block")
	select {
	case <-m.exited:
	case <-time.After(60 * time.Second):
		_ = m.cmd.Process.Kill()
		<-m.exited
	}
}

func call[A any](path string, timeout time.Duration, question any) (A, error) {
	var a A
	b, err := json.Marshal(question)
	if err != nil {
		return a, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, guestURL+path, bytes.NewReader(b))
	if err != nil {
		return a, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return a, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return a, err
	}
	if resp.StatusCode != http.StatusOK {
		return a, fmt.Errorf("guest %s: %s", path, strings.TrimSpace(string(body)))
	}
	return a, json.Unmarshal(body, &a)
}

type execResult struct {
	Code int
	Out  string
}

// exec runs a command in the guest and returns what it wrote; a failing one is an error.
func (m *machine) exec(seconds int, args ...string) (string, error) {
	r, err := m.try(seconds, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("in the guest: %s: exit code %d: %s", strings.Join(args, " "), r.Code, strings.TrimSpace(r.Out))
	}
	return r.Out, err
}

func (m *machine) try(seconds int, args ...string) (execResult, error) {
	return call[execResult]("/exec", time.Duration(seconds+5)*time.Second, map[string]any{"Args": args, "Seconds": seconds})
}

type probeResult struct {
	Ops       uint64
	LongestMs int64
	Error     string
}

func (m *machine) probe(verb, name, path string) (probeResult, error) {
	return call[probeResult]("/probe/"+verb, 3*time.Minute, map[string]string{"Name": name, "Path": path})
}
