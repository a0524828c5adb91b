package metadb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/iomesh/iomesh/internal/rpc"
	"github.com/iomesh/iomesh/storaged/block"
)

// Errors of writes. Test with errors.Is.
var (
	// ErrDeposed: the leader guard failed; another member leads.
	ErrDeposed = errors.New("this member is no longer the meta leader")
	// ErrNotOwner: the owner guard failed; another chunk or epoch owns the volume.
	ErrNotOwner = errors.New("the volume has another owner or epoch")
	// ErrConflict: a record is not at the expected revision.
	ErrConflict = errors.New("the record was changed by another")
	// ErrOutcomeUnknown: the write may have happened or may yet happen (see the package documentation).
	ErrOutcomeUnknown = errors.New("the outcome of the metadata write is unknown")
	// ErrNotFound: there is no such record.
	ErrNotFound = errors.New("no such record")
)

// Options of Open.
type Options struct {
	Endpoints []string    // etcd clients' addresses, https://host:port or host:port
	TLS       *tls.Config // nil = plain, for tests
	Log       *slog.Logger
	// Discover follows the members' own list of their addresses; Endpoints are where to begin. Not for an etcd behind a load balancer.
	Discover bool
}

// DB reads and writes the metadata. Safe for concurrent use.
type DB struct {
	cli   *clientv3.Client
	owned bool // cli is closed by Close
	log   *slog.Logger
	ends  *endpoints // nil for an in-process client

	streams streams
	hub     volumeHub
}

// Open connects to etcd. It does not wait for a connection: calls do, as long as their context allows.
func Open(o Options) (*DB, error) {
	if len(o.Endpoints) == 0 {
		return nil, errors.New("open metadata: no etcd endpoints given")
	}
	cli, err := clientv3.New(clientv3.Config{
		Endpoints: o.Endpoints, TLS: o.TLS, Logger: zap.NewNop(), DialTimeout: 2 * time.Second,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 2 * time.Second, PermitWithoutStream: true,
		DialOptions: rpc.DialOptions(),
	})
	if err != nil {
		return nil, fmt.Errorf("open metadata at %v: %w", o.Endpoints, err)
	}
	db := New(cli, o.Log)
	db.owned = true
	db.ends = newEndpoints(cli, o.Endpoints, o.Discover, db.log)
	return db, nil
}

// New uses a client the caller owns, such as the in-process client of an embedded member.
func New(cli *clientv3.Client, log *slog.Logger) *DB {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &DB{cli: cli, log: log}
}

// Close ends the client if Open made it, and waits for the probes of its endpoints.
func (d *DB) Close() error {
	if !d.owned {
		return nil
	}
	d.ends.stop()
	return d.cli.Close()
}

// LeaderGuard proves leadership: the revision at which the leader's record was written.
type LeaderGuard struct{ Revision int64 }

func (g LeaderGuard) cmp() clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(keyLeader), "=", g.Revision)
}

// OwnerGuard proves ownership of a volume in an epoch: the revision at which the owner's record was written.
type OwnerGuard struct {
	Volume   block.VolumeID
	Epoch    block.Epoch // for messages; Revision decides
	Revision int64
}

func (g OwnerGuard) cmp() clientv3.Cmp {
	return clientv3.Compare(clientv3.ModRevision(keyOwner(g.Volume)), "=", g.Revision)
}

// These bound one transaction, so that a silent etcd member is noticed and the next is tried. Reads can be of a whole volume.
const (
	writeAttempt = 1200 * time.Millisecond
	readAttempt  = 400 * time.Millisecond // doubled each time: reads may be repeated freely
	// writeAttempts is how often a write that recognises its own success is tried while its outcome is unknown. Each
	// attempt may take twice as long as the one before: a member that is merely busy gets done with it.
	writeAttempts = 4
)

// commit runs one transaction. The error is ErrOutcomeUnknown for every failure in which it cannot be excluded that it happened.
func (d *DB) commit(ctx context.Context, cmps []clientv3.Cmp, then, orElse []clientv3.Op) (*clientv3.TxnResponse, error) {
	return d.commitWithin(ctx, writeAttempt, cmps, then, orElse)
}

func (d *DB) commitWithin(ctx context.Context, limit time.Duration, cmps []clientv3.Cmp, then, orElse []clientv3.Op) (*clientv3.TxnResponse, error) {
	tctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	resp, err := d.cli.Txn(tctx).If(cmps...).Then(then...).Else(orElse...).Commit()
	if err != nil {
		d.suspect(err)
		return nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return resp, nil
}

// settle runs a transaction that can tell whether it has happened before, and repeats it while the outcome is unknown.
func (d *DB) settle(ctx context.Context, cmps []clientv3.Cmp, then, orElse []clientv3.Op) (resp *clientv3.TxnResponse, err error) {
	for i := range writeAttempts {
		if resp, err = d.commitWithin(ctx, writeAttempt<<i, cmps, then, orElse); err == nil {
			return resp, nil
		}
		pause(ctx, retryPause)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

// read runs one read-only transaction, retried on another member while ctx lasts.
func (d *DB) read(ctx context.Context, ops ...clientv3.Op) (*clientv3.TxnResponse, error) {
	for i := 0; ; i++ {
		tctx, cancel := context.WithTimeout(ctx, readAttempt<<min(i, writeAttempts))
		resp, err := d.cli.Txn(tctx).Then(ops...).Commit()
		cancel()
		if err == nil {
			return resp, nil
		}
		d.suspect(err)
		if !passing(err) {
			return nil, fmt.Errorf("read metadata: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("read metadata: %w (last error: %w)", context.Cause(ctx), err)
		case <-time.After(retryPause):
		}
	}
}

const retryPause = 50 * time.Millisecond

// suspect starts a probe of all endpoints after a failure that a silent member can explain.
func (d *DB) suspect(err error) {
	if d.ends != nil && passing(err) {
		d.ends.probe()
	}
}
