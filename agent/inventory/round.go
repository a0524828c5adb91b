package inventory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/iomesh/iomesh/agent/blockdev"
	"github.com/iomesh/iomesh/agent/eligibility"
	"github.com/iomesh/iomesh/agent/keeper"
	"github.com/iomesh/iomesh/agent/smart"
	"github.com/iomesh/iomesh/api/v1alpha1"
)

// API is what a round needs of Kubernetes. Apply methods are server-side applies with the agent's field owner.
type API interface {
	// Cluster returns the namespace's cluster, nil when there is none yet.
	Cluster(ctx context.Context) (*v1alpha1.IOMeshCluster, error)
	// Devices returns the objects of this node.
	Devices(ctx context.Context) ([]v1alpha1.BlockDevice, error)
	// Device returns one object of any node, nil when there is none.
	Device(ctx context.Context, name string) (*v1alpha1.BlockDevice, error)
	// ApplyDevice writes labels and spec (without claim) and returns the object.
	ApplyDevice(ctx context.Context, bd *v1alpha1.BlockDevice) (*v1alpha1.BlockDevice, error)
	ApplyDeviceStatus(ctx context.Context, name string, st v1alpha1.BlockDeviceStatus) error
	// ApplyHost writes this node's entry of the cluster's status.hosts.
	ApplyHost(ctx context.Context, cluster string, host v1alpha1.HostStatus) error
}

// Scanner finds devices.
type Scanner interface {
	Scan(ctx context.Context) ([]*blockdev.Device, error)
}

// Keeper carries out claims.
type Keeper interface {
	Reconcile(ctx context.Context, in keeper.Input) (keeper.Result, error)
	Known() ([]string, error)
}

// Smart asks disks how they are, in the background.
type Smart interface {
	See(devices []*blockdev.Device)
	Of(d *blockdev.Device, all []*blockdev.Device) *smart.Finding
}

// Options of an Inventory.
type Options struct {
	Node, Namespace string
	API             API
	Scanner         Scanner
	Keeper          Keeper
	// Policy has the sizes; what the cluster wishes is added each round.
	Policy eligibility.Policy
	// Host describes this host for the cluster's status, given what the cluster wishes; nil to publish nothing.
	Host func(wish v1alpha1.AttachMode) v1alpha1.HostStatus
	// Smart knows what disks say of themselves; nil if nobody asks them.
	Smart Smart
	Now   func() time.Time
	Log   *slog.Logger
}

// Times between writes of what has not changed.
const (
	lastSeenEvery = 4 * time.Minute
	usageEvery    = 30 * time.Second
	silentAfter   = 10 * time.Minute
)

// Inventory keeps the objects of one node. Round is called by one goroutine, Snapshot by any.
type Inventory struct {
	opts Options

	mu   sync.Mutex
	last Snapshot
}

// Item is one device and its judgement.
type Item struct {
	Device    *blockdev.Device
	Name      string // of the object; "" where none is published
	Published bool
	Reasons   []v1alpha1.Reason
	Status    v1alpha1.BlockDeviceStatus
}

// Snapshot is what the last round saw.
type Snapshot struct {
	Time  time.Time
	Items []Item
	Error string // of the round, "" when it went through
}

// New returns an Inventory.
func New(opts Options) *Inventory { return &Inventory{opts: opts} }

// Snapshot returns what the last round saw. The devices are not changed any more by anybody.
func (v *Inventory) Snapshot() Snapshot {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last
}

// Round makes one round. It goes on after an error of one device; the error joins all of them.
func (v *Inventory) Round(ctx context.Context) error {
	items, err := v.round(ctx)
	snap := Snapshot{Time: v.opts.Now(), Items: items}
	if err != nil {
		snap.Error = err.Error()
	}
	v.mu.Lock()
	v.last = snap
	v.mu.Unlock()
	return err
}

func (v *Inventory) round(ctx context.Context) ([]Item, error) {
	devices, err := v.opts.Scanner.Scan(ctx)
	if err != nil {
		return nil, err
	}
	if v.opts.Smart != nil {
		v.opts.Smart.See(devices)
	}
	cluster, err := v.opts.API.Cluster(ctx)
	if err != nil {
		return v.judgeOnly(devices), fmt.Errorf("read the cluster's wish: %w", err)
	}
	objects, err := v.opts.API.Devices(ctx)
	if err != nil {
		return v.judgeOnly(devices), fmt.Errorf("read this node's BlockDevices: %w", err)
	}
	pol := policy(cluster, v.opts.Node, v.opts.Policy)
	pol.DuplicateOf = eligibility.Duplicates(devices)
	byName := map[string]*v1alpha1.BlockDevice{}
	for i := range objects {
		byName[objects[i].Name] = &objects[i]
	}
	known, err := v.opts.Keeper.Known()
	if err != nil {
		return v.judgeOnly(devices), err
	}

	var errs []error
	var items []Item
	seen := map[string]bool{}
	for _, d := range devices {
		item := Item{Device: d}
		name := d.Name()
		item.Published = (pol.Listed(d) || byName[name] != nil || slices.Contains(known, name)) && !seen[name]
		if !item.Published {
			item.Reasons = pol.Evaluate(d, devices)
			items = append(items, item)
			continue
		}
		seen[name] = true
		if byName[name] == nil {
			if name, err = v.unusedName(ctx, d, pol); err != nil {
				errs = append(errs, err)
				continue
			}
			seen[name] = true
		}
		item.Name = name
		item.Reasons = pol.Evaluate(d, devices)
		var said *v1alpha1.SmartStatus
		if v.opts.Smart != nil {
			said = smartStatus(v.opts.Smart.Of(d, devices))
		}
		if item.Status, err = v.publish(ctx, d, name, byName[name], item.Reasons, said); err != nil {
			errs = append(errs, fmt.Errorf("device %s (%s): %w", name, d.Path, err))
		}
		items = append(items, item)
	}
	for _, bd := range objects {
		if !seen[bd.Name] {
			if err := v.gone(ctx, &bd); err != nil {
				errs = append(errs, fmt.Errorf("device %s (gone): %w", bd.Name, err))
			}
		}
	}
	if err := v.publishHost(ctx, cluster); err != nil {
		errs = append(errs, err)
	}
	return items, errors.Join(errs...)
}

// judgeOnly is what can be said without the API server.
func (v *Inventory) judgeOnly(devices []*blockdev.Device) []Item {
	pol := v.opts.Policy
	pol.DuplicateOf = eligibility.Duplicates(devices)
	var items []Item
	for _, d := range devices {
		items = append(items, Item{Device: d, Reasons: pol.Evaluate(d, devices)})
	}
	return items
}

// unusedName returns the name under which a device that has no object on this node is published: its own, or where another node's agent
// publishes that, one bound to this node, which is noted as a reason against the device.
func (v *Inventory) unusedName(ctx context.Context, d *blockdev.Device, pol *eligibility.Policy) (string, error) {
	name := d.Name()
	other, err := v.opts.API.Device(ctx, name)
	if err != nil {
		return "", fmt.Errorf("device %s (%s): look for another node's object: %w", name, d.Path, err)
	}
	if other == nil || other.Spec.Node == v.opts.Node || other.Spec.Node == "" {
		return name, nil
	}
	st := &other.Status
	if st.State != v1alpha1.DeviceActive || st.LastSeen == nil || v.opts.Now().Sub(st.LastSeen.Time) > silentAfter {
		v.opts.Log.Info("disk has moved to this node", "device", name, "path", d.Path, "from", other.Spec.Node)
		return name, nil
	}
	if pol.DuplicateOf == nil {
		pol.DuplicateOf = map[string]string{}
	}
	pol.DuplicateOf[d.KernelName] = fmt.Sprintf("%s of node %s", other.Spec.Path, other.Spec.Node)
	return d.Key.On(v.opts.Node).Name(), nil
}

// publish makes the object of a present device equal to it and carries out its claim.
func (v *Inventory) publish(ctx context.Context, d *blockdev.Device, name string, have *v1alpha1.BlockDevice, reasons []v1alpha1.Reason, said *v1alpha1.SmartStatus) (v1alpha1.BlockDeviceStatus, error) {
	want := object(d, name, v.opts.Namespace, v.opts.Node)
	if have == nil || !sameSpec(have, want) {
		applied, err := v.opts.API.ApplyDevice(ctx, want)
		if err != nil {
			return v1alpha1.BlockDeviceStatus{}, err
		}
		have = applied
	}
	return v.carryOut(ctx, have, d, reasons, said)
}

// gone is a device that has an object on this node and is not there.
func (v *Inventory) gone(ctx context.Context, have *v1alpha1.BlockDevice) error {
	_, err := v.carryOut(ctx, have, nil, nil, nil)
	return err
}

func (v *Inventory) carryOut(ctx context.Context, have *v1alpha1.BlockDevice, d *blockdev.Device, reasons []v1alpha1.Reason, said *v1alpha1.SmartStatus) (v1alpha1.BlockDeviceStatus, error) {
	res, err := v.opts.Keeper.Reconcile(ctx, keeper.Input{
		Name: have.Name, ObjectUID: string(have.UID), Wish: have.Spec.Claim, Acted: have.Status.Claim, DiskID: have.Status.DiskID,
		Device: d, Blocked: eligibility.Blocking(reasons),
	})
	now := metav1.NewTime(v.opts.Now().UTC().Truncate(time.Second))
	st := status(&have.Spec.Identity, reasons, res, have.Spec.Claim, d != nil, now)
	judgeSmart(&st, said)
	if d == nil {
		st.LastSeen = have.Status.LastSeen
	}
	if v.worthWriting(&have.Status, &st) {
		err = errors.Join(err, v.opts.API.ApplyDeviceStatus(ctx, have.Name, st))
	}
	return st, err
}

func sameSpec(have, want *v1alpha1.BlockDevice) bool {
	for k, v := range want.Labels {
		if have.Labels[k] != v {
			return false
		}
	}
	return have.Spec.Node == want.Spec.Node && have.Spec.Path == want.Spec.Path && equality.Semantic.DeepEqual(have.Spec.Identity, want.Spec.Identity)
}

// worthWriting reports whether the object must say something new.
func (v *Inventory) worthWriting(have, want *v1alpha1.BlockDeviceStatus) bool {
	if have.LastSeen == nil && want.LastSeen != nil {
		return true
	}
	age := time.Duration(0)
	if have.LastSeen != nil {
		age = v.opts.Now().Sub(have.LastSeen.Time)
	}
	if want.State == v1alpha1.DeviceActive && age >= lastSeenEvery {
		return true
	}
	a, b := have.DeepCopy(), want.DeepCopy()
	a.LastSeen, b.LastSeen = nil, nil
	if a.Smart != nil && b.Smart != nil {
		a.Smart.Checked = b.Smart.Checked
	}
	if equality.Semantic.DeepEqual(a, b) {
		return false
	}
	if a.Usage != nil && b.Usage != nil && age < usageEvery {
		a.Usage.UsedBytes = b.Usage.UsedBytes
		return !equality.Semantic.DeepEqual(a, b)
	}
	return true
}

// publishHost writes what the cluster must know of this host, when it changed or each four minutes.
func (v *Inventory) publishHost(ctx context.Context, cluster *v1alpha1.IOMeshCluster) error {
	if cluster == nil || v.opts.Host == nil {
		return nil
	}
	want := v.opts.Host(cluster.Spec.Attach)
	want.Node = v.opts.Node
	for _, have := range cluster.Status.Hosts {
		if have.Node != v.opts.Node {
			continue
		}
		seen := have.LastSeen
		have.LastSeen, want.LastSeen = nil, nil
		if equality.Semantic.DeepEqual(have, want) && seen != nil && v.opts.Now().Sub(seen.Time) < lastSeenEvery {
			return nil
		}
	}
	now := metav1.NewTime(v.opts.Now().UTC().Truncate(time.Second))
	want.LastSeen = &now
	if err := v.opts.API.ApplyHost(ctx, cluster.Name, want); err != nil {
		return fmt.Errorf("publish this host in the cluster's status: %w", err)
	}
	return nil
}
