package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// answerBytesMax bounds what is read of one answer of the API server.
const answerBytesMax = 64 << 20

// get asks the API server for a path as the administrator.
func (c *Cluster) get(ctx context.Context, path string) ([]byte, error) {
	cert, err := tls.LoadX509KeyPair(c.path("pki", "admin.crt"), c.path("pki", "admin.key"))
	if err != nil {
		return nil, err
	}
	ca, err := os.ReadFile(c.path("pki", "ca.crt"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	client := &http.Client{
		Timeout: 5 * time.Second,
		Transport: &http.Transport{
			DialContext:       c.DialContext,
			TLSClientConfig:   &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}},
			DisableKeepAlives: true,
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, answerBytesMax))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s", path, resp.Status)
	}
	return body, nil
}

// ready reports whether the API server says that it is.
func (c *Cluster) ready(ctx context.Context) bool {
	_, err := c.get(ctx, "/readyz")
	return err == nil
}

// nodeView is what is read of a Node object.
type nodeView struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Status struct {
		Conditions []struct {
			Type    string `json:"type"`
			Status  string `json:"status"`
			Message string `json:"message"`
		} `json:"conditions"`
		NodeInfo struct {
			BootID string `json:"bootID"`
		} `json:"nodeInfo"`
	} `json:"status"`
}

// condition returns the Ready condition: "True", "False", "Unknown".
func (v nodeView) condition() (status, message string) {
	for _, c := range v.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status, c.Message
		}
	}
	return "Unknown", "kubelet has not reported yet"
}

func (c *Cluster) nodeViews(ctx context.Context) (map[string]nodeView, error) {
	body, err := c.get(ctx, "/api/v1/nodes")
	if err != nil {
		return nil, err
	}
	var list struct {
		Items []nodeView `json:"items"`
	}
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read the list of nodes: %w", err)
	}
	views := map[string]nodeView{}
	for _, v := range list.Items {
		views[v.Metadata.Name] = v
	}
	return views, nil
}

// readyMax is how long a node may take to become Ready on a busy machine.
const readyMax = 3 * time.Minute

// WaitReady returns when the nodes are Ready in their present boot: what the
// API server still believes of a node from before a power-off does not count.
// It gives up after 3 minutes and says what each node lacks.
func (c *Cluster) WaitReady(ctx context.Context, nodes ...string) error {
	start := time.Now()
	wait, cancel := context.WithTimeoutCause(ctx, readyMax, fmt.Errorf("gave up after %s", readyMax))
	defer cancel()
	var lacking []string
	err := poll(wait, 250*time.Millisecond, func() (bool, error) {
		views, err := c.nodeViews(wait)
		if err != nil {
			lacking = []string{err.Error()}
			return false, nil
		}
		lacking = nil
		for _, name := range nodes {
			n, err := c.node(name)
			if err != nil {
				return false, err
			}
			v, known := views[name]
			status, message := v.condition()
			switch {
			case !known:
				lacking = append(lacking, name+": kubelet has not registered yet")
			case v.Status.NodeInfo.BootID != n.BootID:
				lacking = append(lacking, name+": kubelet has not reported since its last boot")
			case status != "True":
				lacking = append(lacking, name+": "+message)
			}
		}
		return len(lacking) == 0, nil
	})
	if err != nil {
		return fmt.Errorf("wait for nodes to be Ready: %w", errors.Join(err, errors.New(strings.Join(lacking, "; "))))
	}
	c.progress("%s Ready after %s", strings.Join(nodes, ", "), time.Since(start).Round(100*time.Millisecond))
	return nil
}

// waitAccount returns when pods can be made: the controllers give the default
// namespace its service account some time after the API server is ready.
func (c *Cluster) waitAccount(ctx context.Context) error {
	wait, cancel := context.WithTimeoutCause(ctx, readyMax, fmt.Errorf("gave up after %s", readyMax))
	defer cancel()
	err := poll(wait, 100*time.Millisecond, func() (bool, error) {
		_, err := c.get(wait, "/api/v1/namespaces/default/serviceaccounts/default")
		return err == nil, nil
	})
	if err != nil {
		return fmt.Errorf("wait for the controllers: %w; see %s", err, c.path("log", "kube-controller-manager.log"))
	}
	return nil
}

// WaitNotReady returns when the API server holds none of the nodes for Ready,
// about 20 seconds after they fall silent.
func (c *Cluster) WaitNotReady(ctx context.Context, nodes ...string) error {
	err := poll(ctx, 250*time.Millisecond, func() (bool, error) {
		views, err := c.nodeViews(ctx)
		if err != nil {
			return false, nil // asked again; ctx ends it
		}
		for _, name := range nodes {
			if status, _ := views[name].condition(); status == "True" {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fmt.Errorf("wait for nodes %v not to be Ready: %w", nodes, err)
	}
	return nil
}
