package dev

import (
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is a running daemon.
type process struct {
	cmd    *exec.Cmd
	exited chan error
}

// launch starts a program that dies with this one.
func launch(exe string, args []string, log io.Writer) (*process, error) {
	cmd := exec.Command(exe, args...)
	cmd.Stdout, cmd.Stderr = log, log
	// A terminal's interrupt goes to us alone; if we are killed the daemons go with us.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	p := &process{cmd: cmd, exited: make(chan error, 1)}
	started := make(chan error, 1)
	go func() {
		// Pdeathsig follows the thread that started the process, so this goroutine keeps its thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.exited <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", exe, err)
	}
	return p, nil
}

// terminate asks the process to end, and insists after a while. A frozen one is woken first.
func (p *process) terminate() {
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
}
