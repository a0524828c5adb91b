// Command kubectl-iomesh is the kubectl plugin of IOMesh. See docs/plugin.md.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"helm.sh/helm/v4/pkg/kube"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // logins of cloud providers in kubeconfigs
	"k8s.io/klog/v2"

	"github.com/iomesh/iomesh/kubectl-iomesh/command"
)

func main() {
	// Libraries below log what the commands report anyway, or what is no fault at all: a closed stream.
	klog.SetLogger(logr.Discard())
	// The fields of a release belong to helm, whoever applies it: else `helm upgrade` would be refused after an installation by this command.
	kube.ManagedFieldsManager = "helm"
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal unwinds, the second kills.
	context.AfterFunc(ctx, stop)
	root := command.New(genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr})
	os.Exit(command.Execute(ctx, root, os.Stderr))
}
