package store

// Space accounting. A unit is mapped at the same place of the extent in every layer that shares it, and the layers that share
// it stand side by side. So what only older views hold is, summed over the frozen layers, what each has that the next newer does
// not: the layer's own units. Both numbers are kept exact by every checkpoint.

// count adjusts the numbers of a layer and its older neighbour after one of its pages has changed.
func (d *destager) count(sh *shadowLayer, page uint32, was, is *[pageUnits]uint32) error {
	if *was == *is {
		return nil
	}
	a, b := mapPage{phys: *was}, mapPage{phys: *is}
	sh.mapped += int64(b.mapped() - a.mapped())
	if sh.reshaped {
		// The neighbours have changed; recount does it all.
		return nil
	}
	if sh.prev != nil {
		prev := d.layer(sh.prev)
		if err := d.loadInto(&d.aux, sh.prev, prev.nodes[page/nodePages], page); err != nil {
			return err
		}
		prev.own += int64(diffUnits(&d.aux, &b) - diffUnits(&d.aux, &a))
	}
	if sh.next != nil {
		next := d.layer(sh.next)
		if err := d.loadInto(&d.aux, sh.next, next.nodes[page/nodePages], page); err != nil {
			return err
		}
		sh.own += int64(diffUnits(&b, &d.aux) - diffUnits(&a, &d.aux))
	}
	return nil
}

// recount counts the own units of all layers of a replica whose layers have changed. What two layers share, nodes or pages,
// is not looked at.
func (d *destager) recount(base []*layer) error {
	for i, l := range base {
		sh := d.layer(l)
		sh.own = 0
		if i+1 == len(base) {
			continue
		}
		next := d.layer(base[i+1])
		for k, n := range sh.nodes {
			m := next.nodes[k]
			if n == m || n == nil {
				continue
			}
			for j := range uint32(nodePages) {
				if n.slot[j] == 0 || m != nil && n.slot[j] == m.slot[j] {
					continue
				}
				page := uint32(k)*nodePages + j
				if err := d.loadInto(&d.pg, l, n, page); err != nil {
					return err
				}
				if err := d.loadInto(&d.aux, base[i+1], m, page); err != nil {
					return err
				}
				sh.own += int64(diffUnits(&d.pg, &d.aux))
			}
		}
	}
	return nil
}
