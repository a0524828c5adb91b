package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
)

// Target is a container.
type Target struct{ Namespace, Pod, Container string }

func (t Target) String() string { return t.Namespace + "/" + t.Pod + " (" + t.Container + ")" }

// Runner runs a command in a container with its standard streams joined to the given ones; nil streams are left out.
type Runner interface {
	Run(ctx context.Context, t Target, argv []string, in io.Reader, out, errs io.Writer) error
}

// podRunner uses pods/exec: WebSocket, or SPDY where the server is too old for it.
type podRunner struct {
	config *rest.Config
	core   kubernetes.Interface
}

func (r *podRunner) Run(ctx context.Context, t Target, argv []string, in io.Reader, out, errs io.Writer) error {
	req := r.core.CoreV1().RESTClient().Post().Resource("pods").Namespace(t.Namespace).Name(t.Pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: t.Container, Command: argv, Stdin: in != nil, Stdout: out != nil, Stderr: errs != nil}, scheme.ParameterCodec)
	ws, err := remotecommand.NewWebSocketExecutor(r.config, "GET", req.URL().String())
	if err != nil {
		return fmt.Errorf("prepare exec: %w", err)
	}
	spdy, err := remotecommand.NewSPDYExecutor(r.config, "POST", req.URL())
	if err != nil {
		return fmt.Errorf("prepare exec: %w", err)
	}
	both, err := remotecommand.NewFallbackExecutor(ws, spdy, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return fmt.Errorf("prepare exec: %w", err)
	}
	return both.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: errs})
}

// outputMax bounds what a command in a pod may answer.
const outputMax = 64 << 20

// limited is a buffer that refuses to grow beyond a bound. It has no ReadFrom, which copying would use instead of Write.
type limited struct {
	buf bytes.Buffer
	max int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.buf.Len()+len(p) > l.max {
		return 0, fmt.Errorf("answer is larger than %d bytes", l.max)
	}
	return l.buf.Write(p)
}

func (l *limited) Len() int       { return l.buf.Len() }
func (l *limited) Bytes() []byte  { return l.buf.Bytes() }
func (l *limited) String() string { return l.buf.String() }

// ctlProblems is the exit code of ctl for an answer that tells of problems.
const ctlProblems = 3

// ctlTimeout bounds one question to the block service.
const ctlTimeout = 30 * time.Second

// Ctl runs `storaged ctl` with the given arguments and -o json in a meta pod and returns its output. Members are tried one after the other:
// any of them answers.
func (l *Link) Ctl(ctx context.Context, args ...string) ([]byte, error) {
	pods, err := l.Pods(ctx, ComponentMeta)
	if err != nil {
		return nil, err
	}
	var tried []string
	for i := range pods {
		p := &pods[i]
		if !containerReady(p, ComponentMeta) {
			continue
		}
		out, err := l.ctlIn(ctx, p, args)
		if err == nil {
			return out, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		tried = append(tried, fmt.Sprintf("%s: %v", p.Name, err))
	}
	switch {
	case len(pods) == 0:
		return nil, fault.Failed(nil, "is the cluster still being installed? see: kubectl iomesh status", "ask the block service: there is no meta pod in namespace %s", l.Namespace)
	case len(tried) == 0:
		return nil, fault.Failed(nil, "see: kubectl get pods -n "+l.Namespace, "ask the block service: none of %d meta pods is ready", len(pods))
	}
	return nil, fault.Failed(nil, "", "ask the block service: %s", strings.Join(tried, "; "))
}

func ctlLine(p *corev1.Pod, args []string) []string {
	return append([]string{"storaged", "ctl", "--meta", net.JoinHostPort(p.Status.PodIP, "10100"), "--tls-dir", "/etc/iomesh/tls", "-o", "json"}, args...)
}

func (l *Link) ctlIn(ctx context.Context, p *corev1.Pod, args []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, ctlTimeout)
	defer cancel()
	out, errs := &limited{max: outputMax}, &limited{max: 1 << 20}
	if err := l.Run.Run(ctx, Target{p.Namespace, p.Name, ComponentMeta}, ctlLine(p, args), nil, out, errs); err != nil {
		var exit exec.CodeExitError
		if errors.As(err, &exit) && exit.Code == ctlProblems && out.Len() > 0 {
			return out.Bytes(), nil // it answered, and found problems
		}
		return nil, said(err, errs)
	}
	return out.Bytes(), nil
}

// said is what a command that failed with err wrote last on its standard error, or else err.
func said(err error, errs *limited) error {
	text := strings.TrimSpace(errs.String())
	if text == "" {
		return err
	}
	return errors.New(text[strings.LastIndexByte(text, '\n')+1:])
}

// CtlLines runs `storaged ctl` as Ctl does, for as long as ctx lets it, and hands each line of its output to line as it comes. Problems that the
// command found are no error: they are in its lines. Once there was a line, no other member is tried.
func (l *Link) CtlLines(ctx context.Context, line func([]byte), args ...string) error {
	pods, err := l.Pods(ctx, ComponentMeta)
	if err != nil {
		return err
	}
	for i := range pods {
		p := &pods[i]
		if !containerReady(p, ComponentMeta) {
			continue
		}
		out, errs := &liner{line: line}, &limited{max: 1 << 20}
		err := l.Run.Run(ctx, Target{p.Namespace, p.Name, ComponentMeta}, ctlLine(p, args), nil, out, errs)
		var exit exec.CodeExitError
		if err == nil || errors.As(err, &exit) && exit.Code == ctlProblems && out.lines > 0 {
			return nil
		}
		return fault.Failed(said(err, errs), "", "run storaged ctl %s in pod %s", strings.Join(args, " "), p.Name)
	}
	return fault.Failed(nil, "see: kubectl get pods -n "+l.Namespace, "ask the block service: none of %d meta pods is ready", len(pods))
}

// lineMax bounds one line.
const lineMax = 64 << 10

// liner cuts what is written into lines.
type liner struct {
	line  func([]byte)
	rest  []byte
	lines int
}

func (l *liner) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		i := bytes.IndexByte(l.rest, '\n')
		if i < 0 {
			break
		}
		l.lines++
		l.line(l.rest[:i])
		l.rest = l.rest[i+1:]
	}
	if len(l.rest) > lineMax {
		return 0, fmt.Errorf("line of the answer is longer than %d bytes", lineMax)
	}
	return len(p), nil
}

func containerReady(p *corev1.Pod, name string) bool {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == name {
			return c.Ready && p.DeletionTimestamp == nil
		}
	}
	return false
}
