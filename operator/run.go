package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/uuid"
	"github.com/spf13/cobra"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	crmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/iomesh/iomesh/api/v1alpha1"
	"github.com/iomesh/iomesh/manifests"
	"github.com/iomesh/iomesh/operator/apply"
	"github.com/iomesh/iomesh/operator/controller"
	"github.com/iomesh/iomesh/operator/crd"
	"github.com/iomesh/iomesh/operator/desired"
	"github.com/iomesh/iomesh/operator/handover"
	"github.com/iomesh/iomesh/operator/nodeloss"
)

type runOptions struct {
	namespace   string
	image       string
	runDir      string
	metrics     string
	health      string
	leaderElect bool
	poll        time.Duration
	logLevel    string
	podPolicy   string
	podLatency  time.Duration
}

func runCommand() *cobra.Command {
	var o runOptions
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the operator (the default)",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return run(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace whose clusters are reconciled (default: $POD_NAMESPACE)")
	f.StringVar(&o.image, "image", os.Getenv("IOMESH_IMAGE"), "image of the daemons where spec.image is empty (default: $IOMESH_IMAGE)")
	f.StringVar(&o.runDir, "run-dir", "/run/iomesh-controller", "directory, shared with the pod's other containers, for credentials and endpoints")
	f.StringVar(&o.metrics, "metrics-listen", ":8080", "address of the metrics; 0 turns them off")
	f.StringVar(&o.health, "health-listen", ":8081", "address of /healthz and /readyz")
	f.BoolVar(&o.leaderElect, "leader-elect", true, "let one of several replicas act")
	f.DurationVar(&o.poll, "poll", 3*time.Second, "how often the metadata members are asked for the status")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.podPolicy, "pod-delete-policy", string(nodeloss.None), "whose pods with ReadWriteOnce volumes are deleted when their node is lost: no-delete-pod, "+
		"delete-deployment-pod, delete-statefulset-pod or delete-both-statefulset-and-deployment-pod")
	f.DurationVar(&o.podLatency, "pod-delete-latency", 90*time.Second, "how long a node is not Ready before such pods are deleted")
	return cmd
}

func (o runOptions) validate() error {
	switch {
	case o.namespace == "":
		return errors.New("--namespace is empty: set it, or the environment variable POD_NAMESPACE")
	case o.image == "":
		return errors.New("--image is empty: set it, or the environment variable IOMESH_IMAGE")
	case o.poll < 500*time.Millisecond || o.poll > 10*time.Minute:
		return fmt.Errorf("--poll %s: must be between 500ms and 10m", o.poll)
	case o.podLatency < 10*time.Second || o.podLatency > 24*time.Hour:
		return fmt.Errorf("--pod-delete-latency %s: must be between 10s and 24h", o.podLatency)
	}
	if _, err := nodeloss.Parse(o.podPolicy); err != nil {
		return fmt.Errorf("--pod-delete-policy: %w", err)
	}
	return nil
}

func run(ctx context.Context, o runOptions) error {
	if err := o.validate(); err != nil {
		return err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.logLevel)); err != nil {
		return fmt.Errorf("--log-level %q: must be debug, info, warn or error", o.logLevel)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))

	scheme, err := newScheme()
	if err != nil {
		return err
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("access to Kubernetes: %w", err)
	}
	if err := applyCRDs(ctx, scheme, log); err != nil {
		return err
	}
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        scheme,
		Metrics:                       metricsserver.Options{BindAddress: o.metrics},
		HealthProbeBindAddress:        o.health,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              "iomesh-operator",
		LeaderElectionNamespace:       o.namespace,
		LeaderElectionReleaseOnCancel: true,
		// Short, because the status must tell of a lost node soon, also when the leader ran there.
		LeaseDuration: new(8 * time.Second),
		RenewDeadline: new(6 * time.Second),
		RetryPeriod:   new(1500 * time.Millisecond),
		Cache: cache.Options{
			DefaultNamespaces: map[string]cache.Config{o.namespace: {}},
			DefaultTransform:  cache.TransformStripManagedFields(),
		},
	})
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if err := os.MkdirAll(o.runDir, 0o700); err != nil {
		return fmt.Errorf("--run-dir: %w", err)
	}
	dialer := &controller.Dialer{Dir: o.runDir}
	defer dialer.Close()
	reconciler := controller.New(controller.Options{
		Client: mgr.GetClient(), Applier: apply.New(mgr.GetClient(), v1alpha1.FieldOwnerOperator), Connect: dialer,
		Events: mgr.GetEventRecorder("iomesh-operator"), Log: log, Image: o.image, Poll: o.poll,
		Now: time.Now, NewUID: func() string { return uuid.NewString() },
	})
	crmetrics.Registry.MustRegister(controller.NewCollector(mgr.GetClient(), o.namespace))
	if err := reconciler.SetupWithManager(mgr); err != nil {
		return fmt.Errorf("set up the reconciler: %w", err)
	}
	if err := mgr.Add(&handover.Copier{Reader: mgr.GetClient(), Namespace: o.namespace, Dir: o.runDir, Log: log}); err != nil {
		return fmt.Errorf("set up the hand-over: %w", err)
	}
	if policy, err := nodeloss.Parse(o.podPolicy); err != nil {
		return fmt.Errorf("--pod-delete-policy: %w", err)
	} else if policy != nodeloss.None {
		// Its own client: the manager's cache knows the operator's namespace only.
		direct, err := directClient(scheme)
		if err != nil {
			return err
		}
		log.Info("pods of lost nodes are deleted", "policy", string(policy), "latency", o.podLatency)
		if err := mgr.Add(&nodeloss.Deleter{
			Client: direct, Events: mgr.GetEventRecorder("iomesh-operator"), Log: log, Driver: desired.DriverName,
			Policy: policy, Latency: o.podLatency, Now: time.Now,
		}); err != nil {
			return fmt.Errorf("set up the deletion of pods of lost nodes: %w", err)
		}
	}
	if err := errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("ping", healthz.Ping)); err != nil {
		return fmt.Errorf("set up the health checks: %w", err)
	}
	return mgr.Start(ctx)
}

func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	if err := errors.Join(clientgoscheme.AddToScheme(scheme), v1alpha1.AddToScheme(scheme), apiextensionsv1.AddToScheme(scheme)); err != nil {
		return nil, fmt.Errorf("register kinds: %w", err)
	}
	return scheme, nil
}

// directClient reads from the API server, not from a cache.
func directClient(scheme *runtime.Scheme) (client.Client, error) {
	config, err := ctrl.GetConfig()
	if err != nil {
		return nil, fmt.Errorf("access to Kubernetes: %w", err)
	}
	return client.New(config, client.Options{Scheme: scheme})
}

// applyCRDs runs in every replica, before leadership: all need the kinds to watch them, and applying twice changes nothing.
func applyCRDs(ctx context.Context, scheme *runtime.Scheme, log *slog.Logger) error {
	crds, err := manifests.CRDs()
	if err != nil {
		return err
	}
	c, err := directClient(scheme)
	if err != nil {
		return err
	}
	if err := crd.Apply(ctx, c, v1alpha1.FieldOwnerOperator, crds); err != nil {
		return err
	}
	log.Info("definitions are up to date", "count", len(crds))
	return nil
}
