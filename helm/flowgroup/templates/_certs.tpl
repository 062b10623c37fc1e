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

{{/* The arguments of `flowgroup certs make`, as a YAML list; it publishes the CA too where that is its own. */}}
{{- define "flowgroup.certsMake" -}}
{{- $args := list "certs" "make" (printf "--namespace=%s" .Release.Namespace) -}}
{{- if not .Values.certificates.controlSecret -}}
{{- $args = append $args (printf "--control=%s" (include "flowgroup.controlSecret" .)) -}}
{{- end -}}
{{- if eq .Values.certificates.mode "own" -}}
{{- $relay := include "flowgroup.relayHosts" . | fromJsonArray | join "," -}}
{{- $daemons := include "flowgroup.daemonHosts" . | fromJsonArray | join "," -}}
{{- $args = concat $args (list (printf "--ca=%s-ca" (include "flowgroup.fullname" .)) (printf "--leaf=%s=%s" (include "flowgroup.daemonTls" .) $daemons) (printf "--leaf=%s=%s" (include "flowgroup.relayTls" .) $relay) (printf "--config-map=%s" (include "flowgroup.caConfigMap" .))) -}}
{{- range $namespace := include "flowgroup.jobsNamespaces" . | fromJsonArray -}}
{{- $args = append $args (printf "--publish=%s" $namespace) -}}
{{- end -}}
{{- end -}}
{{- toYaml $args -}}
{{- end -}}

{{- define "flowgroup.certsPublish" -}}
{{- $args := list "certs" "publish" "--ca=/etc/flowgroup/ca/ca.crt" (printf "--config-map=%s" (include "flowgroup.caConfigMap" .)) -}}
{{- range $namespace := include "flowgroup.jobsNamespaces" . | fromJsonArray -}}
{{- $args = append $args (printf "--namespace=%s" $namespace) -}}
{{- end -}}
{{- toYaml $args -}}
{{- end -}}

{{/* root, name, args (YAML list) */}}
{{- define "flowgroup.certsContainer" -}}
- name: {{ .name }}
  {{- include "flowgroup.container" (dict "root" .root "image" "agent") | nindent 2 }}
  args:
    {{- .args | nindent 4 }}
  resources:
    requests: {cpu: 50m, memory: 64Mi}
    limits: {memory: 256Mi}
  volumeMounts:
    - name: tmp
      mountPath: /tmp
    {{- if eq .name "publish" }}
    - name: ca
      mountPath: /etc/flowgroup/ca
      readOnly: true
    {{- end }}
{{- end -}}

{{/* The pod of the Job and of the CronJob. */}}
{{- define "flowgroup.certsPod" -}}
{{- $isOwn := eq .Values.certificates.mode "own" -}}
metadata:
  labels:
    {{- include "flowgroup.labels" (dict "root" . "component" "certs") | nindent 4 }}
spec:
  {{- include "flowgroup.podBasics" (dict "root" .) | nindent 2 }}
  serviceAccountName: {{ include "flowgroup.fullname" . }}-certs
  automountServiceAccountToken: true
  restartPolicy: Never
  {{- with include "flowgroup.placement" (dict "root" . "values" (omit .Values.daemon "topologySpreadConstraints") "component" "certs") | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if and (not $isOwn) (not .Values.certificates.controlSecret) }}
  initContainers:
    {{- include "flowgroup.certsContainer" (dict "root" . "name" "make" "args" (include "flowgroup.certsMake" .)) | nindent 4 }}
  {{- end }}
  containers:
    {{- if $isOwn }}
    {{- include "flowgroup.certsContainer" (dict "root" . "name" "make" "args" (include "flowgroup.certsMake" .)) | nindent 4 }}
    {{- else }}
    {{- include "flowgroup.certsContainer" (dict "root" . "name" "publish" "args" (include "flowgroup.certsPublish" .)) | nindent 4 }}
    {{- end }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: 16Mi
    {{- if not $isOwn }}
    - name: ca
      secret:
        secretName: {{ include "flowgroup.daemonTls" . }}
        items:
          - {key: ca.crt, path: ca.crt}
    {{- end }}
{{- end -}}
