//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/iomesh/iomesh/tests/image"
	"github.com/iomesh/iomesh/tests/kube/toolchain"
	"github.com/iomesh/iomesh/tests/lab"
)

const pgBin = "/usr/lib/postgresql/15/bin/"

const postgresSet = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: postgres}
provisioner: com.iomesh.csi-driver
parameters: {csi.storage.k8s.io/fstype: ext4, replicaFactor: "3"}
---
apiVersion: v1
kind: Service
metadata: {name: postgres}
spec: {selector: {app: postgres}, ports: [{port: 5432}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: postgres}
spec:
  serviceName: postgres
  replicas: 1
  selector: {matchLabels: {app: postgres}}
  template:
    metadata: {labels: {app: postgres}}
    spec:
      terminationGracePeriodSeconds: 20
      # Kubernetes must not open the database's files to the group again each time it mounts the volume: the server refuses such a directory.
      securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999, fsGroupChangePolicy: OnRootMismatch}
      containers:
      - name: postgres
        image: ` + image.PostgresRef + `
        imagePullPolicy: IfNotPresent
        command:
        - sh
        - -ec
        - |
          if [ ! -s /data/pg/PG_VERSION ]; then
            rm -rf /data/new
            ` + pgBin + `initdb -D /data/new --locale=C --encoding=UTF8 --auth=trust -k >/dev/null
            echo "host all all all trust" >> /data/new/pg_hba.conf
            sync
            mv /data/new /data/pg
          fi
          exec ` + pgBin + `postgres -D /data/pg -c listen_addresses='*' -c unix_socket_directories=/tmp -c shared_buffers=64MB -c max_wal_size=256MB -c checkpoint_timeout=30s
        readinessProbe: {exec: {command: [` + pgBin + `pg_isready, -h, /tmp, -U, postgres]}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], storageClassName: postgres, resources: {requests: {storage: 1Gi}}}
`

// pgClient is a pod on a node that talks to the database by its service.
func pgClient(name, node, address, script string) string {
	dsn := "host=" + address + " user=postgres dbname=postgres connect_timeout=3 keepalives_idle=2 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=5000"
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: %s
    imagePullPolicy: IfNotPresent
    env: [{name: DSN, value: "%s"}]
    command:
    - sh
    - -c
    - |
%s
`, name, node, image.PostgresRef, dsn, indent(script, 6))
}

func indent(s string, n int) string {
	return strings.Repeat(" ", n) + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n"+strings.Repeat(" ", n))
}

// recorder inserts number after number, each a transaction, and says which were committed. What it does not say may be there or not.
const recorder = `
i=0
while :; do
  i=$((i+1))
  timeout 10 ` + pgBin + `psql "$DSN" -qAt -c "insert into recorded values ($i)" 2>/dev/null && echo "committed $i $(date +%s)" || sleep 0.2
done`

const bench = `while :; do timeout 40 ` + pgBin + `pgbench -n -c 4 -T 30 "$DSN"; sleep 0.5; done`

// TestPostgresOutlivesItsNode runs a database under load, switches its node off, and demands that it comes back elsewhere with sound
// indexes and tables, and with every transaction that a client saw committed.
func TestPostgresOutlivesItsNode(t *testing.T) {
	ctx, l := ready(t, 20*time.Minute)
	postgresImage(ctx, t, l)
	must(t, l.Apply(ctx, postgresSet))
	must(t, l.Until(ctx, 3*time.Minute, "the database runs", func(ctx context.Context) string { return podRuns(ctx, l, "postgres-0", "") }))
	victim := get(ctx, l, "pod", "postgres-0", "-o", "jsonpath={.spec.nodeName}")
	address := get(ctx, l, "service", "postgres", "-o", "jsonpath={.spec.clusterIP}")
	sql := func(q string) string {
		t.Helper()
		out, err := l.Kubectl(ctx, "exec", "postgres-0", "--", pgBin+"psql", "-h", "/tmp", "-U", "postgres", "-qAt", "-c", q)
		must(t, err)
		return strings.TrimSpace(out)
	}
	sql("create table recorded (n bigint primary key)")
	_, err := l.Kubectl(ctx, "exec", "postgres-0", "--", pgBin+"pgbench", "-h", "/tmp", "-U", "postgres", "-q", "-i", "-s", "5", "postgres")
	must(t, err)
	var others []string
	for _, n := range nodesOf(t, l) {
		if n != victim {
			others = append(others, n)
		}
	}
	must(t, l.Apply(ctx, pgClient("bench", others[0], address, bench)+"---"+pgClient("recorder", others[1], address, recorder)))
	must(t, l.Until(ctx, 2*time.Minute, "200 transactions are recorded", func(ctx context.Context) string {
		return unless(len(commits(ctx, l)) >= 200, fmt.Sprintf("%d", len(commits(ctx, l))))
	}))

	l.Say("node %s of the database loses power", victim)
	begin := time.Now()
	must(t, l.Cluster.PowerOff(ctx, victim))
	off := true
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
		defer cancel()
		if off {
			_ = l.Cluster.Boot(ctx, victim)
		}
		_, _ = l.Kubectl(ctx, "taint", "node", victim, outOfService+"-")
	})
	before := commits(ctx, l)
	must(t, notReady(ctx, l, victim))
	_, err = l.Kubectl(ctx, "taint", "node", victim, outOfService)
	must(t, err)
	tainted := time.Now()
	must(t, l.Until(ctx, 5*time.Minute, "the database runs elsewhere", func(ctx context.Context) string { return podRuns(ctx, l, "postgres-0", victim) }))
	must(t, l.Until(ctx, 2*time.Minute, "transactions are committed again", func(ctx context.Context) string {
		return unless(len(commits(ctx, l)) > len(before), "not yet")
	}))
	l.Say("first new commit %s after the taint (%s after the power cut); database on %s", seconds(tainted), seconds(begin), get(ctx, l, "pod", "postgres-0", "-o", "jsonpath={.spec.nodeName}"))
	must(t, l.Until(ctx, 2*time.Minute, "100 more", func(ctx context.Context) string {
		return unless(len(commits(ctx, l)) > len(before)+100, fmt.Sprintf("%d", len(commits(ctx, l))-len(before)))
	}))
	for _, pod := range []string{"recorder", "bench"} {
		if pod == "recorder" {
			before = commits(ctx, l)
		}
		_, err = l.Kubectl(ctx, "delete", "pod", pod, "--wait=true")
		must(t, err)
	}
	there := map[string]bool{}
	for n := range strings.FieldsSeq(sql("select n from recorded")) {
		there[n] = true
	}
	missing := 0
	for _, n := range before {
		if !there[n] {
			missing++
			t.Errorf("transaction %s was committed and is missing", n)
		}
	}
	out, err := l.Kubectl(ctx, "exec", "postgres-0", "--", pgBin+"pg_amcheck", "-h", "/tmp", "-U", "postgres", "--all", "--heapallindexed", "--parent-check", "--rootdescend", "--install-missing")
	if err != nil {
		t.Errorf("amcheck: %v\n%s", err, out)
	}
	l.Say("%d transactions were seen committed, %d are missing; pgbench history has %s rows; amcheck is clean: %t", len(before), missing, sql("select count(*) from pgbench_history"), err == nil)
	if a, b := sql("select sum(abalance) from pgbench_accounts"), sql("select sum(delta) from pgbench_history"); a != b {
		t.Errorf("the sum of all accounts is %s, that of the history %s", a, b)
	}

	must(t, l.Cluster.Boot(ctx, victim))
	off = false
	_, err = l.Kubectl(ctx, "taint", "node", victim, outOfService+"-")
	must(t, err)
	for _, what := range []string{"statefulset/postgres", "service/postgres", "pvc/data-postgres-0", "storageclass/postgres"} {
		_, err := l.Kubectl(ctx, "delete", what, "--wait=true", "--timeout=2m")
		must(t, err)
	}
	must(t, l.Until(ctx, lab.StatusWait, "all is in sync", func(ctx context.Context) string { return inSync(ctx, l) }))
	nothingLeft(ctx, t, l)
}

// commits are the numbers that the recorder saw committed.
func commits(ctx context.Context, l *lab.Lab) []string {
	out, err := l.Kubectl(ctx, "logs", "recorder")
	if err != nil {
		return nil
	}
	var all []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "committed" {
			all = append(all, f[1])
		}
	}
	return all
}

// postgresImage gives the nodes the database.
func postgresImage(ctx context.Context, t *testing.T, l *lab.Lab) {
	t.Helper()
	file := filepath.Join(l.Root, "build", "images", "postgres.tar")
	if _, err := os.Stat(file); err != nil {
		cache, err := toolchain.CacheDir()
		must(t, err)
		img, err := image.Builder{Debs: filepath.Join(cache, "debs")}.Postgres(ctx)
		must(t, err)
		must(t, img.Write(file))
	}
	must(t, l.Cluster.ImportImage(ctx, file))
}
