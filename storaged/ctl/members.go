package ctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/iomesh/iomesh/internal/mtls"
)

type voterView struct {
	Name      string `json:"name"`
	ID        string `json:"id"`
	Address   string `json:"address"` // of etcd between members
	Role      string `json:"role"`    // leader, voter, learner
	Answering bool   `json:"answering"`
}

type votersView struct {
	head
	Members []voterView `json:"members"`
}

func (v votersView) table(w io.Writer) {
	var rows [][]string
	for _, m := range v.Members {
		state := "answers"
		if !m.Answering {
			state = "silent"
		}
		rows = append(rows, []string{m.Name, m.Role, state, m.Address, m.ID})
	}
	columns(w, "NAME ROLE STATE PEER ID", rows)
}

// memberCommand is `meta member`.
func (a *app) memberCommand() *cobra.Command {
	list := &cobra.Command{Use: "list", Short: "List the members that vote on the metadata, as etcd knows them", Args: exactly(0), RunE: func(cmd *cobra.Command, _ []string) error {
		return a.members(cmd, "list meta members", func(ctx context.Context, cli *clientv3.Client, v votersView) error {
			return a.print(cmd.OutOrStdout(), v, v.table)
		})
	}}
	var confirm string
	remove := &cobra.Command{
		Use:   "remove NAME --confirm NAME",
		Short: "Take a member that is gone for good out of the vote",
		Long: `Take a member that is gone for good out of the vote, so that another can take its place: start the new one with --members naming it
in place of the old one, and an empty data directory; it joins. Then restart the others with the same list, one by one.

A member whose data alone was lost needs no command: start it again with an empty data directory. The other members must have a majority.`,
		Args: exactly(1),
	}
	remove.Flags().StringVar(&confirm, "confirm", "", "name of the member, to do it")
	remove.RunE = func(cmd *cobra.Command, args []string) error {
		if confirm != args[0] {
			return usage("remove meta member %s: --confirm %s is missing; `meta member list` shows which one is silent", args[0], args[0])
		}
		return a.members(cmd, "remove meta member "+args[0], func(ctx context.Context, cli *clientv3.Client, v votersView) error {
			return a.removeMember(ctx, cmd, cli, v, args[0])
		})
	}
	return group("member", "Members that vote on the metadata", list, remove)
}

func (a *app) removeMember(ctx context.Context, cmd *cobra.Command, cli *clientv3.Client, v votersView, name string) error {
	left, answering := 0, 0
	var gone *voterView
	for i := range v.Members {
		m := &v.Members[i]
		if m.Name == name || m.ID == name {
			gone = m
			continue
		}
		if m.Role == "learner" {
			continue
		}
		left++
		if m.Answering {
			answering++
		}
	}
	switch {
	case gone == nil:
		return a.done(cmd, "MetaMember", name, name, "is no member")
	case gone.Answering:
		return &Error{code: exitFailed, msg: fmt.Sprintf("remove meta member %s: it answers; stop it first, so that it is certain which one is meant", name)}
	case answering <= left/2:
		return &Error{code: exitFailed, msg: fmt.Sprintf("remove meta member %s: of the %d others only %d answer, which is no majority; bring them back first, or restore a backup", name, left, answering)}
	}
	var id uint64
	if _, err := fmt.Sscanf(gone.ID, "%x", &id); err != nil {
		return err
	}
	if _, err := cli.MemberRemove(ctx, id); err != nil {
		return err
	}
	return a.done(cmd, "MetaMember", gone.ID, gone.Name, "removed")
}

// members runs f with an etcd client of a member that answers, and what the members are.
func (a *app) members(cmd *cobra.Command, what string, f func(ctx context.Context, cli *clientv3.Client, v votersView) error) error {
	cl, err := a.connect()
	if err != nil {
		return err
	}
	defer cl.close()
	ctx, cancel := context.WithTimeout(cmd.Context(), a.timeout)
	defer cancel()
	err = func() error {
		through, err := cl.source(ctx)
		if err != nil {
			return err
		}
		cli, err := cl.etcd(through.GetClientUrl())
		if err != nil {
			return err
		}
		defer cli.Close()
		v, err := describeMembers(ctx, cli, through.GetLeaderId())
		if err != nil {
			return err
		}
		return f(ctx, cli, v)
	}()
	var own *Error
	if err == nil || errors.As(err, &own) {
		return err
	}
	return explain(what, cl.addresses, err)
}

// etcd is a client of one etcd member.
func (c *client) etcd(endpoint string) (*clientv3.Client, error) {
	cfg := clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()}
	if c.tls != nil {
		cfg.TLS = c.tls.ClientConfig(mtls.RoleMeta)
	}
	return clientv3.New(cfg)
}

func describeMembers(ctx context.Context, cli *clientv3.Client, leader uint64) (votersView, error) {
	v := votersView{head: kind("MetaMemberList"), Members: []voterView{}}
	list, err := cli.MemberList(ctx)
	if err != nil {
		return v, err
	}
	for _, m := range list.Members {
		x := voterView{Name: m.Name, ID: fmt.Sprintf("%x", m.ID), Address: strings.Join(m.PeerURLs, ","), Role: "voter"}
		switch {
		case m.ID == leader:
			x.Role = "leader"
		case m.IsLearner:
			x.Role = "learner"
		}
		for _, u := range m.ClientURLs {
			pctx, cancel := context.WithTimeout(ctx, probeWait)
			_, err := cli.Status(pctx, u)
			cancel()
			x.Answering = x.Answering || err == nil
		}
		v.Members = append(v.Members, x)
	}
	return v, nil
}
