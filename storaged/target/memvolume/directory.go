package memvolume

import (
	"context"
	"sync"

	"github.com/iomesh/iomesh/storaged/block"
	"github.com/iomesh/iomesh/storaged/target"
)

// Directory implements target.Directory with what a test enters.
type Directory struct {
	mu      sync.Mutex
	changed chan struct{}
	entries map[string]*entry
}

type entry struct {
	place  target.Placement
	grants map[string]target.Grant // nil: everybody, with the grant of place
}

// NewDirectory returns an empty Directory.
func NewDirectory() *Directory {
	return &Directory{changed: make(chan struct{}), entries: map[string]*entry{}}
}

func (d *Directory) update(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
	close(d.changed)
	d.changed = make(chan struct{})
}

// Serve enters a volume for every initiator and returns its IQN.
func (d *Directory) Serve(id block.VolumeID, v target.Volume, g target.Grant) string {
	d.update(func() { d.entries[id.IQN()] = &entry{place: target.Placement{Volume: v, Grant: g}} })
	return id.IQN()
}

// Park makes logins to a target wait.
func (d *Directory) Park(iqn string) {
	d.update(func() { d.entries[iqn] = &entry{} })
}

// Redirect sends logins elsewhere.
func (d *Directory) Redirect(iqn, address string) {
	d.update(func() { d.entries[iqn] = &entry{place: target.Placement{Redirect: address}} })
}

// Grant restricts a target to the initiators granted.
func (d *Directory) Grant(iqn, initiator string, g target.Grant) {
	d.update(func() {
		e := d.entries[iqn]
		if e.grants == nil {
			e.grants = map[string]target.Grant{}
		}
		e.grants[initiator] = g
	})
}

// Revoke takes a grant back.
func (d *Directory) Revoke(iqn, initiator string) {
	d.update(func() { delete(d.entries[iqn].grants, initiator) })
}

// Remove forgets a target.
func (d *Directory) Remove(iqn string) { d.update(func() { delete(d.entries, iqn) }) }

// Lookup implements target.Directory.
func (d *Directory) Lookup(ctx context.Context, l target.Login) (target.Placement, error) {
	for {
		d.mu.Lock()
		e, changed := d.entries[l.Target], d.changed
		if e == nil {
			d.mu.Unlock()
			return target.Placement{}, target.ErrNoTarget
		}
		p := e.place
		if e.grants != nil {
			g, ok := e.grants[l.Initiator]
			if !ok {
				d.mu.Unlock()
				return target.Placement{}, target.ErrNotGranted
			}
			p.Grant = g
		}
		d.mu.Unlock()
		if p.Volume != nil || p.Redirect != "" {
			return p, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return target.Placement{}, ctx.Err()
		}
	}
}

// Targets implements target.Directory.
func (d *Directory) Targets(_ context.Context, l target.Login) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for iqn, e := range d.entries {
		if _, ok := e.grants[l.Initiator]; ok || e.grants == nil {
			out = append(out, iqn)
		}
	}
	return out, nil
}

// ServeIQN enters a volume under a name that is known already.
func (d *Directory) ServeIQN(iqn string, v target.Volume) {
	d.update(func() { d.entries[iqn] = &entry{place: target.Placement{Volume: v}} })
}

// ServeNew enters a new, small volume and returns its IQN.
func (d *Directory) ServeNew() string {
	id := block.NewVolumeID()
	return d.Serve(id, New(id, 1<<20), target.Grant{})
}
