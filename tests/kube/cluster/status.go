package cluster

import "context"

// NodeStatus is one line of Status.
type NodeStatus struct {
	Name   string `json:"name"`
	IP     string `json:"ip"`
	Power  string `json:"power"`  // "on", "off", "frozen"
	Cut    bool   `json:"cut"`    // the cable is pulled
	Ready  string `json:"ready"`  // what the API server believes: "True", "False", "Unknown"
	Reason string `json:"reason"` // its words, if not Ready
	Disks  []Disk `json:"disks"`
}

// Status tells the state of every node. With the API server down Ready is
// "Unknown" and Reason says why.
func (c *Cluster) Status(ctx context.Context) ([]NodeStatus, error) {
	if _, err := c.load(); err != nil {
		return nil, err
	}
	nodes, err := c.nodes()
	if err != nil {
		return nil, err
	}
	views, apiErr := c.nodeViews(ctx)
	all := make([]NodeStatus, 0, len(nodes))
	for _, n := range nodes {
		s := NodeStatus{Name: n.Name, IP: n.ip(), Power: "off", Cut: n.Cut}
		if n.running() {
			s.Power = "on"
			if n.Group.Frozen() {
				s.Power = "frozen"
			}
		}
		if s.Disks, err = n.disks(); err != nil {
			return nil, err
		}
		if apiErr != nil {
			s.Ready, s.Reason = "Unknown", "API server: "+apiErr.Error()
		} else if s.Ready, s.Reason = views[n.Name].condition(); s.Ready == "True" {
			s.Reason = ""
		}
		all = append(all, s)
	}
	return all, nil
}
