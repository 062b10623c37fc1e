{{/* Names, labels, addresses. Every one takes the root context, or a dict with `root` and what else it names. */}}

{{- define "flowgroup.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 30 | trimSuffix "-" -}}
{{- end -}}

{{- define "flowgroup.fullname" -}}
{{- $name := include "flowgroup.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 30 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 30 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 30 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* A pool's name as a part of objects' names: as it is where it can be, else with a few digits of its hash. */}}
{{- define "flowgroup.poolSlug" -}}
{{- $slug := regexReplaceAll "[^a-z0-9-]+" (lower .) "-" | trunc 16 | trimAll "-" -}}
{{- if eq $slug . -}}{{ $slug }}{{- else -}}{{ printf "%s-%s" $slug (sha256sum . | trunc 6) | trimPrefix "-" }}{{- end -}}
{{- end -}}

{{/* root, pool */}}
{{- define "flowgroup.daemon" -}}
{{- printf "%s-daemon-%s" (include "flowgroup.fullname" .root) (include "flowgroup.poolSlug" .pool.name) -}}
{{- end -}}

{{/* Whether daemons stand by for each other: a word, or nothing */}}
{{- define "flowgroup.standBy" -}}
{{- if gt (int .Values.daemon.replicas) 1 -}}yes{{- end -}}
{{- end -}}

{{- define "flowgroup.relay" -}}
{{- printf "%s-relay" (include "flowgroup.fullname" .) -}}
{{- end -}}

{{/* The Services of all relays, one for each, as a JSON list. The first has the name that a relay which is alone has. */}}
{{- define "flowgroup.relays" -}}
{{- $name := include "flowgroup.relay" . -}}
{{- $found := list $name -}}
{{- range $number := untilStep 1 (int .Values.relay.replicas) 1 -}}
{{- $found = append $found (printf "%s-%d" $name $number) -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{/* Where clusters that are made from now on find their relay. */}}
{{- define "flowgroup.relayAddresses" -}}
{{- $found := list -}}
{{- range $service := slice (include "flowgroup.relays" . | fromJsonArray) 0 (int (sub .Values.relay.replicas .Values.relay.draining)) -}}
{{- $found = append $found (printf "https://%s.%s.svc:%d" $service $.Release.Namespace (int $.Values.relay.service.port)) -}}
{{- end -}}
{{- join "," $found -}}
{{- end -}}

{{/* root, pool */}}
{{- define "flowgroup.jobsNamespace" -}}
{{- $namespace := default (printf "%s-jobs" .root.Release.Namespace) .pool.namespace -}}
{{- if eq $namespace .root.Release.Namespace -}}
{{- fail (printf "pools: the pool %q has its clusters in %q, the release's own namespace: whoever deploys flows could reach its Secrets from there. Name another namespace." .pool.name $namespace) -}}
{{- end -}}
{{- $namespace -}}
{{- end -}}

{{/* What no schema can say. */}}
{{- define "flowgroup.check" -}}
{{- $seen := dict -}}
{{- range .Values.pools -}}
{{- if hasKey $seen .name }}{{ fail (printf "pools: %q is named twice" .name) }}{{ end -}}
{{- $_ := set $seen .name true -}}
{{- end -}}
{{- if ge (int .Values.relay.draining) (int .Values.relay.replicas) -}}
{{- fail (printf "relay.draining: of %d relays %d cannot be on their way out, for one must take new clusters" (int .Values.relay.replicas) (int .Values.relay.draining)) -}}
{{- end -}}
{{- end -}}

{{/* The namespaces of all pools, each once, as a JSON list. */}}
{{- define "flowgroup.jobsNamespaces" -}}
{{- $found := list -}}
{{- range .Values.pools -}}
{{- $found = append $found (include "flowgroup.jobsNamespace" (dict "root" $ "pool" .)) -}}
{{- end -}}
{{- $found | uniq | sortAlpha | toJson -}}
{{- end -}}

{{- define "flowgroup.selector" -}}
app.kubernetes.io/name: {{ include "flowgroup.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* root, component, pool (may be left out), more (labels of pods) */}}
{{- define "flowgroup.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: flowgroup
{{ include "flowgroup.selector" . }}
{{- with .pool }}
flowgroup.dev/served: {{ include "flowgroup.poolSlug" .name }}
{{- end }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- with .more }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* root, name, namespace, component, pool, annotations: the metadata of an object */}}
{{- define "flowgroup.metadata" -}}
name: {{ .name }}
namespace: {{ default .root.Release.Namespace .namespace }}
labels:
  {{- include "flowgroup.labels" (dict "root" .root "component" .component "pool" .pool) | nindent 2 }}
{{- with merge (dict) (default (dict) .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* root, image: agent or runtime */}}
{{- define "flowgroup.image" -}}
{{- $image := index .root.Values.image .image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .root.Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "flowgroup.jobsServiceAccount" -}}
{{- default (printf "%s-cluster" (include "flowgroup.fullname" .)) .Values.jobs.serviceAccount.name -}}
{{- end -}}

{{/* The Secrets with certificates, whoever makes them. */}}
{{- define "flowgroup.daemonTls" -}}
{{- if eq .Values.certificates.mode "existing" -}}
{{- required "certificates.existing.daemonSecret: name the Secret with the daemons' certificate" .Values.certificates.existing.daemonSecret -}}
{{- else -}}{{ include "flowgroup.fullname" . }}-daemon-tls{{- end -}}
{{- end -}}

{{- define "flowgroup.relayTls" -}}
{{- if eq .Values.certificates.mode "existing" -}}
{{- required "certificates.existing.relaySecret: name the Secret with the relays' certificate" .Values.certificates.existing.relaySecret -}}
{{- else -}}{{ include "flowgroup.fullname" . }}-relay-tls{{- end -}}
{{- end -}}

{{- define "flowgroup.controlSecret" -}}
{{- default (printf "%s-control" (include "flowgroup.fullname" .)) .Values.certificates.controlSecret -}}
{{- end -}}

{{- define "flowgroup.caConfigMap" -}}
{{- printf "%s-ca" (include "flowgroup.fullname" .) -}}
{{- end -}}

{{/* root, service: its host names, as a JSON list. Addresses use the third. */}}
{{- define "flowgroup.hosts" -}}
{{- $namespace := .root.Release.Namespace -}}
{{- list .service (printf "%s.%s" .service $namespace) (printf "%s.%s.svc" .service $namespace) (printf "%s.%s.svc.%s" .service $namespace .root.Values.certificates.clusterDomain) | toJson -}}
{{- end -}}

{{- define "flowgroup.relayHosts" -}}
{{- $found := list -}}
{{- range $service := include "flowgroup.relays" . | fromJsonArray -}}
{{- $found = concat $found (include "flowgroup.hosts" (dict "root" $ "service" $service) | fromJsonArray) -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

{{- define "flowgroup.daemonHosts" -}}
{{- $found := list -}}
{{- range .Values.pools -}}
{{- $found = concat $found (include "flowgroup.hosts" (dict "root" $ "service" (include "flowgroup.daemon" (dict "root" $ "pool" .))) | fromJsonArray) -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}
