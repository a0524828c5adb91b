package story

import "fmt"

// classes are the StorageClasses of the story: three replicas, as a filesystem that can grow while mounted, and as a device.
const classes = `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: story-xfs}
provisioner: com.iomesh.csi-driver
parameters: {csi.storage.k8s.io/fstype: xfs, replicaFactor: "3", thinProvision: "true"}
allowVolumeExpansion: true
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: story-block}
provisioner: com.iomesh.csi-driver
parameters: {replicaFactor: "3"}
allowVolumeExpansion: true
`

// writer is a StatefulSet of one pod that writes records to a volume.
func writer(name, class, mode, size string) string {
	volume, arg := "volumeMounts: [{name: data, mountPath: /data}, {name: tools, mountPath: /tools}]", "/data/records"
	if mode == "Block" {
		volume, arg = "volumeDevices: [{name: data, devicePath: /dev/data}]\n        volumeMounts: [{name: tools, mountPath: /tools}]", "/dev/data"
	}
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: %[1]s}
spec:
  serviceName: %[1]s
  replicas: 1
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: writer
        image: registry.k8s.io/e2e-test-images/busybox:1.37.0-1
        imagePullPolicy: IfNotPresent
        command: [/tools/verifier, write, %[3]s]
        securityContext: {runAsUser: 0}
        %[2]s
      volumes: [{name: tools, hostPath: {path: /opt/iomesh}}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      storageClassName: %[4]s
      volumeMode: %[5]s
      resources: {requests: {storage: %[6]s}}
`, name, volume, arg, class, mode, size)
}

// snapshot takes a snapshot of a claim.
func snapshot(name, pvc string) string {
	return fmt.Sprintf(`
apiVersion: snapshot.storage.k8s.io/v1
kind: VolumeSnapshot
metadata: {name: %s}
spec:
  volumeSnapshotClassName: iomesh-csi-driver
  source: {persistentVolumeClaimName: %s}
`, name, pvc)
}

// restored is a claim made of a snapshot, and a pod that checks the records in it.
func restored(name, snap, size string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[1]s}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: story-xfs
  dataSource: {apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: %[2]s}
  resources: {requests: {storage: %[3]s}}
---
apiVersion: v1
kind: Pod
metadata: {name: %[1]s}
spec:
  restartPolicy: Never
  containers:
  - name: check
    image: registry.k8s.io/e2e-test-images/busybox:1.37.0-1
    imagePullPolicy: IfNotPresent
    command: [/tools/verifier, check, /data/records]
    securityContext: {runAsUser: 0}
    volumeMounts: [{name: data, mountPath: /data}, {name: tools, mountPath: /tools}]
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: %[1]s}}
  - {name: tools, hostPath: {path: /opt/iomesh}}
`, name, snap, size)
}
