package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Process is a daemon that can be killed, frozen and started again.
type Process struct {
	Name  string
	place *place
	exe   string
	args  []string
	log   string

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
	killed bool // by us: stays dead until Start
}

// supervise starts the process again when it has ended by itself.
func (p *Process) supervise(ctx context.Context) {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		p.mu.Lock()
		again := p.cmd != nil && !p.killed
		if again {
			select {
			case <-p.exited:
			default:
				again = false
			}
		}
		p.mu.Unlock()
		if again {
			_ = p.Start()
		}
	}
}

// Start starts the daemon; one that runs is left alone.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		select {
		case <-p.exited:
		default:
			return nil
		}
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.exe, p.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	// On the place's thread: it is in the node's namespace, and lives as long as the cluster, which Pdeathsig watches.
	if err := p.place.do(cmd.Start); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	p.cmd, p.exited, p.killed = cmd, make(chan struct{}), false
	go func(done chan struct{}) {
		_ = cmd.Wait()
		close(done)
	}(p.exited)
	return nil
}

// PID of the process, 0 if it was never started.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Running reports whether the process exists.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Signal sends a signal, for example SIGSTOP.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return fmt.Errorf("%s does not run", p.Name)
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%s to %s: %w", s, p.Name, err)
	}
	return nil
}

// Kill is kill -9, and waits until the process is gone.
func (p *Process) Kill() error {
	p.mu.Lock()
	p.killed = true
	p.mu.Unlock()
	if err := p.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-p.exited
	return nil
}

// end asks the process to end, and insists after a while.
func (p *Process) end() {
	p.mu.Lock()
	p.killed = true
	p.mu.Unlock()
	if !p.Running() {
		return
	}
	_ = p.Signal(syscall.SIGCONT)
	_ = p.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(10 * time.Second):
		_ = p.Kill()
	}
}
