// Command guest runs inside the virtual machine of tests/vm: it starts the node's programs, passes gRPC on to the CSI plugin's socket, runs
// commands, and probes filesystems. Plain HTTP, inside a network namespace of its own.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"time"
)

const (
	payload   = "/var/lib/payload" // not /run, which is mounted noexec
	csiSocket = "/run/csi.sock"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		os.Exit(1)
	}
}

func run() error {
	for _, args := range [][]string{{"ip", "link", "set", "eth0", "up"}, {"ip", "addr", "add", "10.77.0.2/24", "dev", "eth0"},
		{"ip", "route", "add", "default", "via", "10.77.0.1"}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
	}
	go supervise("redirect", payload+"/storaged", "redirect", "--meta", "10.78.0.4:10100", "--tls-dir", payload+"/tls")
	go supervise("csi", payload+"/iomesh-csi", "node", "--node", "vm1", "--attach", "iscsi", "--endpoint", "unix://"+csiSocket, "--kubelet-dir", "/run/kubelet",
		"--state-dir", "/run/iomesh/csi", "--meta", "10.78.0.4:10100", "--tls-dir", payload+"/tls", "--health-listen", "")
	go forward(":7000", csiSocket)
	probes := newProbes()
	http.HandleFunc("/exec", answer(func(r execRequest) (execResult, error) { return execute(r), nil }))
	http.HandleFunc("/probe/start", answer(probes.start))
	http.HandleFunc("/probe/window", answer(probes.window))
	http.HandleFunc("/probe/stop", answer(probes.stop))
	fmt.Println("guest is up")
	return http.ListenAndServe(":7001", nil)
}

// supervise runs a program again when it ends.
func supervise(name, program string, args ...string) {
	for {
		cmd := exec.Command(program, args...)
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		err := cmd.Run()
		fmt.Println(name, "ended:", err)
		time.Sleep(time.Second)
	}
}

// forward joins TCP connections to a unix socket.
func forward(listen, socket string) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		fmt.Println("forward:", err)
		os.Exit(1)
	}
	for {
		in, err := l.Accept()
		if err != nil {
			fmt.Println("forward:", err)
			os.Exit(1)
		}
		go func() {
			defer in.Close()
			out, err := net.Dial("unix", socket)
			if err != nil {
				return
			}
			defer out.Close()
			go func() { _, _ = io.Copy(out, in); _ = out.(*net.UnixConn).CloseWrite() }()
			_, _ = io.Copy(in, out)
		}()
	}
}

func answer[Q, A any](f func(Q) (A, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var q Q
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		a, err := f(q)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		_ = json.NewEncoder(w).Encode(a)
	}
}

type execRequest struct {
	Args    []string
	Stdin   string
	Seconds int
}

type execResult struct {
	Code int
	Out  string
}

func execute(r execRequest) execResult {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(max(r.Seconds, 1))*time.Second)
	defer cancel()
	if len(r.Args) == 0 {
		return execResult{-1, "no command"}
	}
	cmd := exec.CommandContext(ctx, r.Args[0], r.Args[1:]...)
	cmd.Stdin = bytes.NewReader([]byte(r.Stdin))
	out, err := cmd.CombinedOutput()
	switch {
	case ctx.Err() != nil:
		return execResult{-1, string(out) + "\ntimed out"}
	case err != nil && cmd.ProcessState == nil:
		return execResult{-1, err.Error()}
	}
	return execResult{cmd.ProcessState.ExitCode(), string(out)}
}
