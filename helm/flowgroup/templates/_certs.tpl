{{/* The Secrets that the chart's own Jobs fill, as a JSON list of names. */}}
{{- define "flowgroup.ownSecrets" -}}
{{- $fullname := include "flowgroup.fullname" . -}}
{{- $found := list -}}
{{- if eq .Values.certificates.mode "own" -}}
{{- $found = list (printf "%s-ca" $fullname) (include "flowgroup.daemonTls" .) (include "flowgroup.relayTls" .) -}}
{{- end -}}
{{- if not .Values.certificates.controlSecret -}}
{{- $found = append $found (include "flowgroup.controlSecret" .) -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{/* The arguments of `flowgroup certs make`, as a YAML list. What it makes is Helm's from the beginning, so that the install adopts it. */}}
{{- define "flowgroup.certsMake" -}}
{{- $args := list "certs" "make" "--namespace" .Release.Namespace -}}
{{- if eq .Values.certificates.mode "own" -}}
{{- $relay := include "flowgroup.hosts" (dict "root" . "service" (include "flowgroup.relay" .)) | fromJsonArray | join "," -}}
{{- $daemons := include "flowgroup.daemonHosts" . | fromJsonArray | join "," -}}
{{- $args = concat $args (list "--ca" (printf "%s-ca" (include "flowgroup.fullname" .)) "--leaf" (printf "%s=%s" (include "flowgroup.daemonTls" .) $daemons) "--leaf" (printf "%s=%s" (include "flowgroup.relayTls" .) $relay)) -}}
{{- end -}}
{{- if not .Values.certificates.controlSecret -}}
{{- $args = concat $args (list "--control" (include "flowgroup.controlSecret" .)) -}}
{{- end -}}
{{- toYaml (concat $args (list "--label" (printf "app.kubernetes.io/managed-by=%s" .Release.Service) "--annotation" (printf "meta.helm.sh/release-name=%s" .Release.Name) "--annotation" (printf "meta.helm.sh/release-namespace=%s" .Release.Namespace))) -}}
{{- end -}}

{{/* The container of one of the chart's Jobs. root, name, args (YAML list), mount (whether the CA's file is wanted) */}}
{{- define "flowgroup.certsContainer" -}}
name: {{ .name }}
{{ include "flowgroup.container" (dict "root" .root "image" "agent") }}
args:
  {{- .args | nindent 2 }}
resources:
  requests: {cpu: 50m, memory: 64Mi}
  limits: {memory: 256Mi}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- if .mount }}
  - name: ca
    mountPath: /etc/flowgroup/ca
    readOnly: true
  {{- end }}
{{- end -}}

{{- define "flowgroup.certsPublishArgs" -}}
- certs
- publish
- --ca=/etc/flowgroup/ca/ca.crt
- --config-map={{ include "flowgroup.caConfigMap" . }}
{{- range $namespace := include "flowgroup.jobsNamespaces" . | fromJsonArray }}
- --namespace={{ $namespace }}
{{- end }}
{{- end -}}

{{- define "flowgroup.certsVolumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 16Mi
- name: ca
  secret:
    secretName: {{ include "flowgroup.daemonTls" . }}
    items:
      - {key: ca.crt, path: ca.crt}
{{- end -}}
