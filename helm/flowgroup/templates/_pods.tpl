{{/* What the pods of the chart have in common. */}}

{{/* base and extra (lists of variables): extra ones win by name, for a name that is given twice is an error with server-side apply */}}
{{- define "flowgroup.env" -}}
{{- $named := dict -}}
{{- range .extra }}{{ $_ := set $named .name true }}{{ end -}}
{{- $all := list -}}
{{- range .base }}{{ if not (hasKey $named .name) }}{{ $all = append $all . }}{{ end }}{{ end -}}
{{- toYaml (concat $all .extra) -}}
{{- end -}}

{{/* Where the Secret with Prefect's token is mounted, if it is: there it is read again when it changes. */}}
{{- define "flowgroup.prefectAuthMounted" -}}
{{- with .Values.prefect.auth }}{{ if and .existingSecret .mounted (or .apiKeyKey .authStringKey) }}true{{ end }}{{ end -}}
{{- end -}}

{{/* root, mounted: how to reach Prefect, and the token, as a file or from its Secret. A YAML list. */}}
{{- define "flowgroup.prefectEnv" -}}
{{- $mounted := .mounted -}}
{{- with .root -}}
- name: PREFECT_API_URL
  value: {{ .Values.prefect.apiUrl | quote }}
{{- with .Values.prefect.uiUrl }}
- name: PREFECT_UI_URL
  value: {{ . | quote }}
{{- end }}
{{- if .Values.prefect.auth.existingSecret }}
{{- range $variable, $key := dict "PREFECT_API_KEY" .Values.prefect.auth.apiKeyKey "PREFECT_API_AUTH_STRING" .Values.prefect.auth.authStringKey "PREFECT_CLIENT_CUSTOM_HEADERS" .Values.prefect.auth.customHeadersKey }}
{{- if and $key $mounted (ne $variable "PREFECT_CLIENT_CUSTOM_HEADERS") }}
- name: {{ $variable }}_FILE
  value: /etc/flowgroup/prefect/{{ $key }}
{{- else if $key }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ $.root.Values.prefect.auth.existingSecret }}
      key: {{ $key }}
{{- end }}
{{- end }}
{{- end }}
{{- if .Values.prefect.tls.existingConfigMap }}
- name: PREFECT_API_SSL_CERT_FILE
  value: /etc/flowgroup/prefect-ca/{{ .Values.prefect.tls.key }}
{{- end }}
{{- if .Values.prefect.tls.insecureSkipVerify }}
- name: PREFECT_API_TLS_INSECURE_SKIP_VERIFY
  value: "true"
{{- end }}
{{- end }}
{{- end -}}

{{/* Of the daemon and the relay. A YAML list. */}}
{{- define "flowgroup.commonEnv" -}}
{{ include "flowgroup.prefectEnv" (dict "root" . "mounted" (include "flowgroup.prefectAuthMounted" .)) }}
- name: FLOWGROUP_HOME
  value: /var/lib/flowgroup
- name: FLOWGROUP_LOG_LEVEL
  value: {{ .Values.daemon.logLevel }}
- name: FLOWGROUP_RELAY_CONTROL_KEY_FILE
  value: /etc/flowgroup/control/key
{{- if .Values.config }}
- name: FLOWGROUP_CONFIG
  value: /etc/flowgroup/config/flowgroup.toml
{{- end }}
{{- with .Values.store.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* root, values (of the component): environment from Secrets and ConfigMaps */}}
{{- define "flowgroup.envFrom" -}}
{{- $all := list -}}
{{- with .root.Values.store.existingSecret }}{{ $all = append $all (dict "secretRef" (dict "name" .)) }}{{ end -}}
{{- with concat $all .values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* root, values, tls (name of the Secret) */}}
{{- define "flowgroup.volumes" -}}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
- name: tls
  secret:
    secretName: {{ .tls }}
    defaultMode: 0440
    items:
      - {key: tls.crt, path: tls.crt}
      - {key: tls.key, path: tls.key}
      - {key: ca.crt, path: ca.crt}
- name: control
  secret:
    secretName: {{ include "flowgroup.controlSecret" .root }}
    defaultMode: 0440
    items:
      - {key: key, path: key}
{{- if include "flowgroup.prefectAuthMounted" .root }}
- name: prefect
  secret:
    secretName: {{ .root.Values.prefect.auth.existingSecret }}
    defaultMode: 0440
    items:
      {{- range list .root.Values.prefect.auth.apiKeyKey .root.Values.prefect.auth.authStringKey | compact | uniq }}
      - {key: {{ . }}, path: {{ . }}}
      {{- end }}
{{- end }}
{{- if .root.Values.config }}
- name: config
  configMap:
    name: {{ include "flowgroup.fullname" .root }}-config
{{- end }}
{{- with .root.Values.prefect.tls.existingConfigMap }}
- name: prefect-ca
  configMap:
    name: {{ . }}
{{- end }}
{{- with .values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "flowgroup.volumeMounts" -}}
- name: home
  mountPath: /var/lib/flowgroup
- name: tmp
  mountPath: /tmp
- name: tls
  mountPath: /etc/flowgroup/tls
  readOnly: true
- name: control
  mountPath: /etc/flowgroup/control
  readOnly: true
{{- if include "flowgroup.prefectAuthMounted" .root }}
- name: prefect
  mountPath: /etc/flowgroup/prefect
  readOnly: true
{{- end }}
{{- if .root.Values.config }}
- name: config
  mountPath: /etc/flowgroup/config
  readOnly: true
{{- end }}
{{- if .root.Values.prefect.tls.existingConfigMap }}
- name: prefect-ca
  mountPath: /etc/flowgroup/prefect-ca
  readOnly: true
{{- end }}
{{- with .values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* What every container of ours says. root, image */}}
{{- define "flowgroup.container" -}}
image: {{ include "flowgroup.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- toYaml .root.Values.securityContext | nindent 2 }}
{{- end -}}

{{/* What every pod of ours says. root */}}
{{- define "flowgroup.podBasics" -}}
enableServiceLinks: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Where a component's pods go. root, values, component, isSpread */}}
{{- define "flowgroup.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if .values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else if .isSpread }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "flowgroup.selector" . | nindent 8 }}
{{- end }}
{{- end -}}

{{/* root: what is to be read anew makes a new pod */}}
{{- define "flowgroup.checksums" -}}
{{- if .root.Values.config }}
checksum/config: {{ toJson .root.Values.config | sha256sum }}
{{- end }}
{{- if .withSizes }}
checksum/sizes: {{ toJson .root.Values.sizes | sha256sum }}
{{- end }}
{{- end -}}
