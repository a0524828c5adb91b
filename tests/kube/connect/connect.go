// Package connect tells client-go how to reach a cluster that tests run
// against: the test cluster, whose API server lives in a network namespace
// without uplink, or any other one.
//
// Environment, as printed by `kubelab shell-env`:
//
//	KUBECONFIG      the cluster
//	KUBELAB_NETNS   network namespace to connect from; empty or unset: this one
package connect

import (
	"fmt"
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/iomesh/iomesh/tests/kube/netns"
)

// NetnsVariable names the environment variable with the network namespace.
const NetnsVariable = "KUBELAB_NETNS"

// FromEnv returns the configuration that the environment describes.
func FromEnv() (*rest.Config, error) {
	return Config(os.Getenv("KUBECONFIG"), os.Getenv(NetnsVariable))
}

// Config loads a kubeconfig; its connections are made from inside the network
// namespace, if one is named, and the server must then be an IP address.
// Making them needs root.
func Config(kubeconfig, network string) (*rest.Config, error) {
	if kubeconfig == "" {
		return nil, fmt.Errorf("KUBECONFIG is not set: name the cluster to test, or start one with `kubelab up` and `eval \"$(kubelab shell-env)\"`")
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("load kubeconfig %s: %w", kubeconfig, err)
	}
	if network != "" {
		config.Dial = netns.Dialer{Namespace: network}.DialContext
	}
	return config, nil
}
