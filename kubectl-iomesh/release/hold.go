package release

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/iomesh/iomesh/kubectl-iomesh/fault"
)

// Times of a hold. A run that cannot renew its hold stops well before another one may take it over.
const (
	holdRenew = 3 * time.Second  // how often it is renewed
	holdLost  = 10 * time.Second // a run that could not renew it for so long stops
	holdLooks = 6                // takes it over after so many looks at which nobody had renewed it, a pause of holdPause between two
	holdPause = 3 * time.Second
)

// errHoldLost ends a run whose hold may be another's by now.
var errHoldLost = errors.New("the lock of the Helm release could not be renewed, so that another run may have taken it over")

// hold makes sure that one run of the plugin at a time works on the release, and calls do with what remains of the context. Helm itself only knows that
// a revision is pending, and not whether anybody still works on it.
//
// The lock is a Lease beside the release, held by the id of the run and removed with its end. A run that was killed leaves it: the next one sees nobody
// renew it and takes it over. Clocks of two machines are not compared.
func (h *Helm) hold(ctx context.Context, do func(ctx context.Context) error) error {
	core, err := h.config.KubernetesClientSet()
	if err != nil {
		return err
	}
	lease, err := h.acquire(ctx, core)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	released := make(chan *coordinationv1.Lease)
	stop := make(chan struct{})
	go func() { released <- renew(core, lease, stop, cancel) }()
	done := make(chan error, 1)
	go func() { done <- do(ctx) }() // parts of Helm know no context
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done: // it unwound
		case <-time.After(holdRenew):
			err = context.Cause(ctx)
		}
	}
	close(stop)
	if lease = <-released; lease != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		// Only the hold that is ours. When this fails the next run waits until it has not been renewed for a while.
		own := metav1.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion}
		_ = core.CoordinationV1().Leases(h.Namespace).Delete(ctx, lease.Name, metav1.DeleteOptions{Preconditions: &own})
	}
	if errors.Is(context.Cause(ctx), errHoldLost) {
		return errHoldLost
	}
	return err
}

// renew keeps the hold until stop is closed, and returns the Lease as it is then; nil when it is lost, of which it tells by cancel.
func renew(core kubernetes.Interface, lease *coordinationv1.Lease, stop <-chan struct{}, cancel context.CancelCauseFunc) *coordinationv1.Lease {
	tick := time.NewTicker(holdRenew)
	defer tick.Stop()
	since := time.Now()
	for {
		select {
		case <-stop:
			return lease
		case <-tick.C:
		}
		next := lease.DeepCopy()
		now := metav1.NowMicro()
		next.Spec.RenewTime = &now
		ctx, end := context.WithTimeout(context.Background(), holdRenew)
		next, err := core.CoordinationV1().Leases(lease.Namespace).Update(ctx, next, metav1.UpdateOptions{})
		end()
		switch {
		case err == nil:
			lease, since = next, time.Now()
		case apierrors.IsConflict(err) || apierrors.IsNotFound(err) || time.Since(since) > holdLost:
			cancel(errHoldLost)
			<-stop
			return nil
		}
	}
}

// acquire takes the hold: at once when nobody has it, after a while when whoever has it does not renew it.
func (h *Helm) acquire(ctx context.Context, core kubernetes.Interface) (*coordinationv1.Lease, error) {
	leases, looks, seen := core.CoordinationV1().Leases(h.Namespace), 0, ""
	seconds, now := int32(holdLooks*holdPause/time.Second), metav1.NowMicro()
	mine := coordinationv1.LeaseSpec{HolderIdentity: &h.run, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now}
	for {
		there, err := leases.Get(ctx, h.LeaseName(), metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			lease, err := leases.Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: h.LeaseName(), Namespace: h.Namespace}, Spec: mine}, metav1.CreateOptions{})
			if apierrors.IsNotFound(err) {
				err = h.createNamespace(ctx, core)
			} else if err == nil {
				return lease, nil
			}
			if err != nil && !apierrors.IsAlreadyExists(err) {
				return nil, fault.API(err, "take the lock of Helm release %s (Lease %s in namespace %s)", h.Name, h.LeaseName(), h.Namespace)
			}
			continue
		case err != nil:
			return nil, fault.API(err, "look at the lock of Helm release %s (Lease %s in namespace %s)", h.Name, h.LeaseName(), h.Namespace)
		}
		holder := ""
		if there.Spec.HolderIdentity != nil {
			holder = *there.Spec.HolderIdentity
		}
		switch {
		case looks > 0 && there.ResourceVersion != seen:
			return nil, fault.Failed(nil, "wait until it has ended", "another run of kubectl iomesh (%s) works on the Helm release %s in namespace %s", holder, h.Name, h.Namespace)
		case looks == holdLooks || holder == "":
			there.Spec = mine
			lease, err := leases.Update(ctx, there, metav1.UpdateOptions{})
			if err == nil {
				return lease, nil
			}
			if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				return nil, fault.API(err, "take over the lock of Helm release %s (Lease %s in namespace %s)", h.Name, h.LeaseName(), h.Namespace)
			}
			continue // another one was quicker
		case looks == 0 && h.Say != nil:
			h.Say(fmt.Sprintf("Waiting for the run %s, which has not ended its work on the Helm release %s", holder, h.Name))
		}
		looks, seen = looks+1, there.ResourceVersion
		if err := h.pause(ctx); err != nil {
			return nil, err
		}
	}
}

func (h *Helm) pause(ctx context.Context) error {
	if h.Pause != nil {
		return h.Pause(ctx)
	}
	t := time.NewTimer(holdPause)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// createNamespace makes the namespace as Helm would.
func (h *Helm) createNamespace(ctx context.Context, core kubernetes.Interface) error {
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: h.Namespace, Labels: map[string]string{"name": h.Namespace}}}
	_, err := core.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
	return err
}

// LeaseName is the name of the lock.
func (h *Helm) LeaseName() string { return "kubectl-" + h.Name }

// newRun is an id of a run, fit for a label: the machine, the process, and something random.
func newRun() string {
	machine, err := os.Hostname()
	if err != nil {
		machine = "unknown"
	}
	machine = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, machine)
	return fmt.Sprintf("%.32s-%d-%.8s", strings.TrimLeft(machine, "-"), os.Getpid(), strings.ToLower(rand.Text()))
}
