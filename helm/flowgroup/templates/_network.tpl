{{/* The labels that the daemon gives to drivers' pods, and to no others. */}}
{{- define "flowgroup.driverLabels" -}}
app.kubernetes.io/managed-by: flowgroup
flowgroup.dev/role: driver
{{- end -}}

{{/* The labels of schedulers' pods: ours, which the operator copies. */}}
{{- define "flowgroup.schedulerLabels" -}}
app.kubernetes.io/managed-by: flowgroup
flowgroup.dev/role: scheduler
{{- end -}}

{{- define "flowgroup.dnsRule" -}}
# A cluster's DNS server may listen on 5353 behind its Service's 53.
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
    - {port: 5353, protocol: UDP}
    - {port: 5353, protocol: TCP}
{{- end -}}

{{/* cidrs, ports: an egress rule, or nothing without addresses */}}
{{- define "flowgroup.blockRule" -}}
{{- if .cidrs }}
- to:
    {{- range .cidrs }}
    - ipBlock:
        cidr: {{ . }}
    {{- end }}
  ports:
    {{- range .ports }}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
{{- end }}
{{- end -}}
