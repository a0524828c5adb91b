package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/operator/controller"
)

func preDeleteCommand() *cobra.Command {
	var namespace string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "pre-delete",
		Short: "Delete the namespace's clusters and wait until they are gone; refuse, changing nothing, while volumes exist (hook of helm uninstall)",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if namespace == "" {
				return errors.New("--namespace is empty: set it, or the environment variable POD_NAMESPACE")
			}
			scheme, err := newScheme()
			if err != nil {
				return err
			}
			c, err := directClient(scheme)
			if err != nil {
				return err
			}
			dir, err := os.MkdirTemp("", "iomesh-pre-delete-*")
			if err != nil {
				return fmt.Errorf("directory for credentials: %w", err)
			}
			defer os.RemoveAll(dir)
			dialer := &controller.Dialer{Dir: filepath.Join(dir, "c")}
			defer dialer.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			return preDelete(ctx, c, dialer, namespace, func(s string) { fmt.Fprintln(cmd.OutOrStdout(), s) })
		},
	}
	cmd.Flags().StringVar(&namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace (default: $POD_NAMESPACE)")
	cmd.Flags().DurationVar(&timeout, "timeout", 10*time.Minute, "how long to wait for the deletion")
	return cmd
}

// preDelete checks before it deletes: a deletion that has begun cannot be taken back.
func preDelete(ctx context.Context, c client.Client, connect controller.Connector, namespace string, say func(string)) error {
	var list v1alpha1.IOMeshClusterList
	if err := c.List(ctx, &list, client.InNamespace(namespace)); err != nil {
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			return nil // the definition is gone, and every cluster with it
		}
		return fmt.Errorf("list clusters: %w", err)
	}
	for i := range list.Items {
		for {
			err := refuseVolumes(ctx, c, connect, &list.Items[i])
			if err == nil {
				break
			}
			if !errors.Is(err, errVolumesGoing) {
				return err
			}
			say(err.Error())
			if err := sleep(ctx, 2*time.Second); err != nil {
				return err
			}
		}
	}
	for i := range list.Items {
		if err := c.Delete(ctx, &list.Items[i]); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("delete cluster %s: %w", list.Items[i].Name, err)
		}
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := ""
	for i := range list.Items {
		for {
			var cluster v1alpha1.IOMeshCluster
			err := c.Get(ctx, client.ObjectKeyFromObject(&list.Items[i]), &cluster)
			if apierrors.IsNotFound(err) {
				say("cluster " + list.Items[i].Name + " is gone")
				break
			}
			if task := cluster.Status.TaskInProcess; err == nil && task != last {
				last = task
				say(task)
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("cluster %s is not gone in time; it waits for: %s", list.Items[i].Name, last)
			case <-tick.C:
			}
		}
	}
	return nil
}

// errVolumesGoing says that volumes exist, and all of them are being deleted already.
var errVolumesGoing = errors.New("waiting for volumes that are being deleted")

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w: not in time", errVolumesGoing)
	case <-t.C:
		return nil
	}
}

// refuseVolumes returns an error that lists the cluster's volumes, nil if it has none, or never had members to keep any.
func refuseVolumes(ctx context.Context, c client.Client, connect controller.Connector, cluster *v1alpha1.IOMeshCluster) error {
	if cluster.DeletionTimestamp != nil || cluster.Annotations[v1alpha1.AnnotationAcceptLoss] == cluster.Name {
		return nil
	}
	if len(cluster.Status.AttachedDevices) == 0 {
		return nil // without a disk there is no volume
	}
	var endpoints corev1.ConfigMap
	var credentials corev1.Secret
	for name, obj := range map[string]client.Object{v1alpha1.ConfigMapEndpoints: &endpoints, v1alpha1.SecretControllerTLS: &credentials} {
		if err := c.Get(ctx, client.ObjectKey{Namespace: cluster.Namespace, Name: name}, obj); err != nil {
			return fmt.Errorf("find out whether volumes exist: %w", err)
		}
	}
	s, err := connect.Connect(endpoints.Data[v1alpha1.EndpointsKeyMeta], &credentials)
	if err != nil {
		return fmt.Errorf("find out whether volumes exist: %w", err)
	}
	volumes, err := s.Volumes(ctx)
	if err != nil {
		return fmt.Errorf("find out whether volumes exist: %w; to give all data up: kubectl -n %s annotate iomesh %s %s=%s",
			err, cluster.Namespace, cluster.Name, v1alpha1.AnnotationAcceptLoss, cluster.Name)
	}
	if len(volumes) == 0 {
		return nil
	}
	names := make([]string, 0, len(volumes))
	going := 0
	for _, v := range volumes {
		names = append(names, v.GetName())
		if v.GetState() == "Deleting" {
			going++
		}
	}
	if going == len(volumes) {
		return errVolumesGoing
	}
	return fmt.Errorf("refused: cluster %s has %d volumes (%s); delete their PersistentVolumeClaims first", cluster.Name, len(volumes), strings.Join(names[:min(10, len(names))], ", "))
}
