{{/* root, pool: what a daemon is told beside what it has in common with the relay. A YAML list. */}}
{{- define "flowgroup.daemonEnv" -}}
{{- $values := .root.Values -}}
- name: FLOWGROUP_BACKEND
  value: kubernetes
- name: FLOWGROUP_POOL
  value: {{ .pool.name | quote }}
# By its name a daemon knows its own runs again, so it is the same in the next pod.
- name: FLOWGROUP_NAME
  value: {{ list $values.clusterName .root.Release.Namespace (include "flowgroup.fullname" .root) | compact | join "." | quote }}
{{- if include "flowgroup.standBy" .root }}
- name: FLOWGROUP_STAND_BY
  value: "true"
- name: FLOWGROUP_KUBERNETES_LEASE
  value: {{ include "flowgroup.daemon" . }}
{{- end }}
- name: FLOWGROUP_HEALTH_HOST
  value: 0.0.0.0
- name: FLOWGROUP_HEALTH_PORT
  value: "8080"
{{- with $values.page }}
{{- if .enabled }}
- name: FLOWGROUP_PAGE_HOST
  value: 0.0.0.0
- name: FLOWGROUP_PAGE_PORT
  value: "8081"
- name: FLOWGROUP_PAGE_TOKEN_FILE
  value: /etc/flowgroup/page/token
- name: FLOWGROUP_PAGE_URL
  value: {{ .url | default (printf "http://%s.%s.svc:8081" (include "flowgroup.daemon" $) $.root.Release.Namespace) | quote }}
{{- end }}
{{- end }}
{{- with .pool.slots }}
- name: FLOWGROUP_SLOTS
  value: {{ . | quote }}
{{- end }}
{{- range $kind, $most := omit (.pool.caps | default dict) "group" }}
- name: FLOWGROUP_CAP_{{ upper $kind }}
  value: {{ $most | quote }}
{{- end }}
{{- range $kind, $most := dig "group" dict (.pool.caps | default dict) }}
- name: FLOWGROUP_GROUP_CAP_{{ upper $kind }}
  value: {{ $most | quote }}
{{- end }}
{{- with .pool.queues }}
- name: FLOWGROUP_QUEUES
  value: {{ toJson . | quote }}
{{- end }}
{{- if $values.publicKeys.existingConfigMap }}
- name: FLOWGROUP_PUBLIC_KEYS
  value: /etc/flowgroup/public-keys
{{- end }}
- name: FLOWGROUP_KUBERNETES_NAMESPACE
  value: {{ include "flowgroup.jobsNamespace" . }}
- name: FLOWGROUP_KUBERNETES_IMAGE
  value: {{ include "flowgroup.image" (dict "root" .root "image" "runtime") }}
- name: FLOWGROUP_KUBERNETES_IMAGE_PULL_POLICY
  value: {{ $values.image.pullPolicy }}
- name: FLOWGROUP_KUBERNETES_IMAGE_PULL_SECRETS
  value: {{ join "," $values.jobs.imagePullSecrets | quote }}
- name: FLOWGROUP_KUBERNETES_DAEMON_ADDRESS
  value: tls://{{ include "flowgroup.daemon" . }}.{{ .root.Release.Namespace }}.svc:8443
- name: FLOWGROUP_KUBERNETES_RELAY_ADDRESS
  value: {{ include "flowgroup.relayAddresses" .root }}
- name: FLOWGROUP_KUBERNETES_CA_CONFIG_MAP
  value: {{ include "flowgroup.caConfigMap" .root }}
- name: FLOWGROUP_KUBERNETES_CA_FILE
  value: /etc/flowgroup/tls/ca.crt
- name: FLOWGROUP_KUBERNETES_LISTEN_PORT
  value: "8443"
- name: FLOWGROUP_KUBERNETES_TLS_CERT
  value: /etc/flowgroup/tls/tls.crt
- name: FLOWGROUP_KUBERNETES_TLS_KEY
  value: /etc/flowgroup/tls/tls.key
- name: FLOWGROUP_KUBERNETES_SERVICE_ACCOUNT
  value: {{ include "flowgroup.jobsServiceAccount" .root }}
{{- with $values.jobs.serviceAccounts }}
- name: FLOWGROUP_KUBERNETES_SERVICE_ACCOUNTS
  value: {{ join "," . | quote }}
{{- end }}
- name: FLOWGROUP_KUBERNETES_SIZES
  value: /etc/flowgroup/sizes/sizes.json
- name: FLOWGROUP_KUBERNETES_NETWORK_POLICY
  value: {{ $values.jobs.networkPolicy | quote }}
- name: FLOWGROUP_DASHBOARDS
  value: {{ $values.jobs.dashboard | quote }}
{{- with $values.jobs.operatorNamespace }}
- name: FLOWGROUP_KUBERNETES_OPERATOR_NAMESPACE
  value: {{ . }}
{{- end }}
{{- with $values.jobs.egress }}
- name: FLOWGROUP_KUBERNETES_EGRESS
  value: {{ join "," . | quote }}
{{- end }}
{{- with $values.jobs.driverEgress }}
- name: FLOWGROUP_KUBERNETES_DRIVER_EGRESS
  value: {{ join "," . | quote }}
{{- end }}
{{- end -}}

{{/* persistence: the spec of a volume claim */}}
{{- define "flowgroup.claim" -}}
accessModes:
  {{- toYaml .accessModes | nindent 2 }}
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end -}}
