package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	agentv1 "github.com/iomesh/iomesh/api/agent/v1"
)

// Agent is the connection to the agent of one node. Close it.
type Agent struct {
	agentv1.AgentClient
	Node string
	conn *grpc.ClientConn
	stop context.CancelFunc
	done chan struct{}
	errs *limited // standard error of the dial command; read after done
}

// Close ends the connection and waits for its stream.
func (a *Agent) Close() error {
	err := a.conn.Close()
	a.stop()
	<-a.done
	return err
}

// Agent connects to the agent in a pod of iomesh-node. Every call on it fails when ctx ends.
func (l *Link) Agent(ctx context.Context, pod *corev1.Pod) (*Agent, error) {
	if !containerReady(pod, "agent") {
		return nil, fmt.Errorf("the agent's container in pod %s is not ready", pod.Name)
	}
	ctx, stop := context.WithCancel(ctx)
	near, far := net.Pipe()
	done := make(chan struct{})
	errs := &limited{max: 64 << 10}
	var mu sync.Mutex
	var ended error
	go func() {
		defer close(done)
		err := l.Run.Run(ctx, Target{pod.Namespace, pod.Name, "agent"}, []string{"iomesh-agent", "dial"}, far, far, errs)
		if text := strings.TrimSpace(errs.String()); text != "" {
			err = fmt.Errorf("%s", text)
		}
		mu.Lock()
		ended = err
		mu.Unlock()
		far.Close() // also ends what still reads from it
	}()
	used := false
	conn, err := grpc.NewClient("passthrough:agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			// The stream is the connection: once it has ended there is no other.
			if used {
				if ended != nil {
					return nil, ended
				}
				return nil, io.ErrUnexpectedEOF
			}
			used = true
			return near, nil
		}))
	if err != nil {
		stop()
		near.Close()
		<-done
		return nil, fmt.Errorf("connect to the agent in pod %s: %w", pod.Name, err)
	}
	return &Agent{AgentClient: agentv1.NewAgentClient(conn), Node: pod.Spec.NodeName, conn: conn, stop: stop, done: done, errs: errs}, nil
}

// EachAgent calls f for the agent of every node, at most eight at a time, each with the given time. It returns the errors by node: an agent
// that cannot be reached, and what f returned.
func (l *Link) EachAgent(ctx context.Context, timeout time.Duration, f func(context.Context, *Agent) error) (map[string]error, error) {
	pods, err := l.Pods(ctx, ComponentNode)
	if err != nil {
		return nil, err
	}
	return l.agents(ctx, pods, timeout, f), nil
}

// AgentsOf does so for the named nodes only. A node without an agent is among the errors.
func (l *Link) AgentsOf(ctx context.Context, nodes []string, timeout time.Duration, f func(context.Context, *Agent) error) (map[string]error, error) {
	pods, err := l.Pods(ctx, ComponentNode)
	if err != nil {
		return nil, err
	}
	missing := map[string]error{}
	for _, n := range nodes {
		missing[n] = errors.New("no agent runs there; see: kubectl iomesh node list, kubectl get pods -n " + l.Namespace)
	}
	pods = slices.DeleteFunc(pods, func(p corev1.Pod) bool { return !slices.Contains(nodes, p.Spec.NodeName) })
	for i := range pods {
		delete(missing, pods[i].Spec.NodeName)
	}
	failed := l.agents(ctx, pods, timeout, f)
	maps.Copy(failed, missing)
	return failed, nil
}

func (l *Link) agents(ctx context.Context, pods []corev1.Pod, timeout time.Duration, f func(context.Context, *Agent) error) map[string]error {
	var mu sync.Mutex
	failed := map[string]error{}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i := range pods {
		p := &pods[i]
		wg.Add(1)
		slots <- struct{}{}
		go func() {
			defer func() { <-slots; wg.Done() }()
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			err := func() error {
				a, err := l.Agent(ctx, p)
				if err != nil {
					return err
				}
				err = f(ctx, a)
				a.Close()
				// What the command in the container said is the cause; gRPC only saw its stream end.
				if text := strings.TrimSpace(a.errs.String()); err != nil && text != "" {
					return errors.New(text)
				}
				return err
			}()
			if err != nil {
				mu.Lock()
				failed[p.Spec.NodeName] = err
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	return failed
}
