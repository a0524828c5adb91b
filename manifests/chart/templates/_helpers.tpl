{{- define "iomesh.labels" -}}
app.kubernetes.io/name: iomesh
app.kubernetes.io/part-of: iomesh
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "iomesh.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* iomesh.sidecar (dict "root" $ "name" "csi-provisioner" "image" "…"): image and command of a sidecar. */}}
{{- define "iomesh.sidecar" -}}
image: {{ .root.Values.sidecars.image | default .image }}
imagePullPolicy: {{ .root.Values.sidecars.pullPolicy }}
{{- if .root.Values.sidecars.image }}
command: [{{ printf "/usr/local/bin/%s" .name | quote }}]
{{- end }}
{{- end }}

{{- define "iomesh.unprivileged" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* iomesh.snapshotController: "true" if the snapshot controller runs in this release. With auto it does unless the snapshot API
was there before the release; its definitions carry our label only if the chart installed them. */}}
{{- define "iomesh.snapshotController" -}}
{{- $wish := .Values.snapshot.controller | toString -}}
{{- if eq $wish "auto" -}}
{{- $crd := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "volumesnapshots.snapshot.storage.k8s.io" -}}
{{- if not $crd -}}true
{{- else if eq (dig "metadata" "labels" "iomesh.com/installed-by" "" $crd) "chart" -}}true
{{- else -}}false
{{- end -}}
{{- else -}}{{ $wish }}
{{- end -}}
{{- end }}
