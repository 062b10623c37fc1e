#!/usr/bin/env bash
# Everything on a laptop, from nothing: the Dask operator, an S3 server, a Prefect server, the chart, an example flow.
#
#   deploy/up.sh          on the cluster of $KUBECONFIG if that is set, else on a kind cluster `flowgroup`, which is made
#   deploy/up.sh images   only makes that cluster, where there is none, and brings the images to it
#   deploy/up.sh down     takes it all away again; without $KUBECONFIG the kind cluster itself
#
# KIND            the kind cluster's name (flowgroup); with $KUBECONFIG: what that says, or is to say, is this kind cluster
# KIND_OPTIONS    more options for `kind create cluster`
# CLUSTER         a script with `build TAG DIR [options]` that builds and loads images (a test cluster)
# REGISTRY        where images are pushed for the cluster of $KUBECONFIG: registry.example.com/me
# TAG             of the images (dev)
# BUILD           no: the images are on the cluster's nodes already
# NAMESPACES      what begins the names of all namespaces (none)
# MORE_IMAGES     more of what deploy/image.sh can build (none)
# OPERATOR_CHART  the Dask operator's chart (the one in the package dask-kubernetes);  none: the operator is there already
# OPERATOR_SERVES more namespaces that the Dask operator looks after, with commas between (none)
# S3_IMAGE        an image of versitygw (versity/versitygw:latest);  S3_BINARY: that program, to make an image of
# HELM_OPTIONS    more options for `helm install` of the chart
# PREFECT_API     the API of a Prefect server that is there already, as pods reach it (one is made)
# EXAMPLE         none: without the example flow
set -euo pipefail
cd "$(dirname "$0")/.."
before=${NAMESPACES:-} tag=${TAG:-dev} prefix=flowgroup kind=${KIND:-flowgroup}
release=${before}flowgroup main=${before}flowgroup prefect=${before}prefect s3=${before}s3 operator=${before}dask-operator
s3_image=${S3_IMAGE:-versity/versitygw:latest}
api=${PREFECT_API:-http://prefect.$prefect.svc:4200/api}

say() { echo "up: $* (${SECONDS} s)" >&2; }
need() { command -v "$1" >/dev/null || { say "$1 is needed: $2"; exit 2; }; }

is_kind() { [ -z "${KUBECONFIG:-}" ] || [ -n "${KIND:-}" ]; }

cluster() {
	is_kind || return 0
	need kind "https://kind.sigs.k8s.io, or set KUBECONFIG"
	if kind get clusters 2>/dev/null | grep -x "$kind" >/dev/null; then
		kind export kubeconfig --name "$kind" >&2 # made earlier it may be in another kubeconfig, or not be the current context
	else
		# shellcheck disable=SC2086
		kind create cluster --name "$kind" --config deploy/kind.yaml ${KIND_OPTIONS:-} >&2
	fi
}

bring() { # image: to the cluster's nodes
	if [ -n "${CLUSTER:-}" ]; then
		return
	elif [ -n "${REGISTRY:-}" ]; then
		docker push --quiet "$1" >&2
	elif is_kind; then
		kind load docker-image --name "$kind" "$1" >&2
	else
		say "how does $1 come to the cluster of \$KUBECONFIG? Set REGISTRY, or KIND if it is a kind cluster"
		exit 2
	fi
}

images() {
	prefix=${REGISTRY:+$REGISTRY/}flowgroup
	[ -z "${S3_BINARY:-}" ] || s3_image=$prefix-s3:$tag
	[ "${BUILD:-}" != no ] || return 0
	say "building images"
	for image in $(PREFIX=$prefix deploy/image.sh "$tag" agent runtime operator ${MORE_IMAGES:-}); do bring "$image"; done
	[ -n "${S3_BINARY:-}" ] || return 0
	local folder
	folder=$(mktemp -d)
	cp "$S3_BINARY" "$folder/versitygw"
	printf 'FROM %s\nCOPY versitygw /usr/local/bin/\n' "${BASE:-python:3.11-slim}" >"$folder/Dockerfile"
	if [ -n "${CLUSTER:-}" ]; then "$CLUSTER" build "docker.io/library/$s3_image" "$folder" >&2; else docker build --quiet --tag "$s3_image" "$folder" >&2; fi
	rm -rf "$folder"
	bring "$s3_image"
}

namespaces() {
	for name in "$main" "$prefect" "$s3" "$operator"; do
		kubectl create namespace "$name" --dry-run=client -o yaml | kubectl apply -f - >/dev/null
		kubectl label --overwrite namespace "$name" pod-security.kubernetes.io/enforce=restricted >/dev/null
	done
}

# Keys of the S3 server, made once; the daemon and the relay sign with them, an author uploads with them.
store_secret() {
	local id key
	id=$(kubectl -n "$s3" get secret store -o 'jsonpath={.data.AWS_ACCESS_KEY_ID}' 2>/dev/null | base64 -d || true)
	key=$(kubectl -n "$s3" get secret store -o 'jsonpath={.data.AWS_SECRET_ACCESS_KEY}' 2>/dev/null | base64 -d || true)
	[ -n "$id" ] || { id=$(openssl rand -hex 10); key=$(openssl rand -hex 20); }
	for name in "$s3" "$main" "$prefect"; do
		kubectl -n "$name" create secret generic store --dry-run=client -o yaml \
			--from-literal=AWS_ACCESS_KEY_ID="$id" --from-literal=AWS_SECRET_ACCESS_KEY="$key" | kubectl apply -f - >/dev/null
	done
}

operator_up() {
	local serves=$main-jobs${OPERATOR_SERVES:+,$OPERATOR_SERVES} chart=${OPERATOR_CHART:-$(echo .venv/lib/python3*/site-packages/dask_kubernetes/operator/deployment/helm/dask-kubernetes-operator)}
	[ "$chart" != none ] || return 0
	[ -d "$chart" ] || [ -n "${OPERATOR_CHART:-}" ] || { say "no operator's chart in $chart: run make setup, or set OPERATOR_CHART"; exit 2; }
	say "the Dask operator"
	helm upgrade --install "${before}dask-operator" "$chart" --namespace "$operator" --set image.name="$prefix-operator" --set image.tag="$tag" \
		--set "kopfArgs={--namespace=${serves//,/,--namespace=}}" --set podSecurityContext.seccompProfile.type=RuntimeDefault \
		--set resources.requests.cpu=100m --set resources.requests.memory=128Mi >/dev/null
}

stack_up() {
	[ -n "${PREFECT_API:-}" ] && say "an S3 server" || say "a Prefect server and an S3 server"
	sed "s#image: versitygw#image: $s3_image#" deploy/stack/s3.yaml | kubectl -n "$s3" apply -f - >/dev/null
	[ -n "${PREFECT_API:-}" ] ||
		sed "s#image: flowgroup-runtime#image: $prefix-runtime:$tag#" deploy/stack/prefect.yaml | kubectl -n "$prefect" apply -f - >/dev/null
	kubectl -n "$s3" wait --for=condition=Available deployment/s3 --timeout=300s >/dev/null
	[ -n "${PREFECT_API:-}" ] || kubectl -n "$prefect" wait --for=condition=Available deployment/prefect --timeout=300s >/dev/null
}

chart_up() {
	say "the chart"
	# shellcheck disable=SC2086
	helm upgrade --install "$release" helm/flowgroup --namespace "$main" -f deploy/values.yaml --wait --timeout 5m \
		--set prefect.apiUrl="$api" --set "store.env[0].name=AWS_ENDPOINT_URL" \
		--set "store.env[0].value=http://s3.$s3.svc:7070" --set "jobs.egress={namespace/$s3:7070}" \
		--set jobs.operatorNamespace="$operator" --set image.agent.repository="$prefix-agent" --set image.agent.tag="$tag" \
		--set image.runtime.repository="$prefix-runtime" --set image.runtime.tag="$tag" ${HELM_OPTIONS:-} >/dev/null
}

example() {
	say "an example flow"
	kubectl -n "$prefect" delete job example --ignore-not-found >/dev/null
	kubectl -n "$prefect" create configmap example --from-file=deploy/examples/report.py --dry-run=client -o yaml | kubectl apply -f - >/dev/null
	sed -e "s#image: flowgroup-runtime#image: $prefix-runtime:$tag#" -e "s#S3_URL#http://s3.$s3.svc:7070#" deploy/stack/example.yaml |
		kubectl -n "$prefect" apply -f - >/dev/null
	local until=$((SECONDS + 300)) ended=""
	until [ -n "$ended" ] || [ $SECONDS -gt $until ]; do
		ended=$(kubectl -n "$prefect" get job example -o 'jsonpath={.status.conditions[?(@.status=="True")].type}')
		sleep 1
	done
	kubectl -n "$prefect" logs job/example || true
	case $ended in *Complete*) return ;; esac
	say "the example has not completed. Pods, and what Kubernetes says of them:"
	for name in "$prefect" "$main" "$main-jobs"; do
		kubectl -n "$name" get pods -o wide >&2
		kubectl -n "$name" get events --field-selector type=Warning --sort-by .lastTimestamp 2>&1 | tail -n 8 >&2
	done
	kubectl -n "$main" logs deployment/"$release"-daemon-default --tail=20 >&2 || true
	exit 1
}

brought() {
	cluster
	images
}

up() {
	need kubectl "https://kubernetes.io/docs/tasks/tools"
	need helm "https://helm.sh"
	brought
	namespaces
	store_secret
	operator_up
	stack_up
	chart_up
	[ "${EXAMPLE:-}" = none ] || example
	local ui="kubectl -n $prefect port-forward service/prefect 4200, then http://127.0.0.1:4200"
	[ -z "${PREFECT_API:-}" ] || ui=${api%/api}
	say "everything is up. Prefect's UI: $ui"
}

down() {
	if [ -z "${KUBECONFIG:-}" ]; then
		kind delete cluster --name "$kind"
		return
	fi
	# The clusters first: while the operator lives it takes its finalizer away.
	kubectl -n "$main-jobs" delete daskclusters --all --ignore-not-found --timeout=60s >/dev/null 2>&1 || true
	helm -n "$main" uninstall "$release" --ignore-not-found >/dev/null
	helm -n "$operator" uninstall "${before}dask-operator" --ignore-not-found >/dev/null
	kubectl delete namespace "$main" "$main-jobs" "$prefect" "$s3" "$operator" --ignore-not-found
}

case ${1:-up} in
	up) up ;;
	images) brought ;;
	down) down ;;
	*) sed -n '2,/^set /p' "$0" | sed '$d;s/^# \{0,1\}//' && exit 2 ;;
esac
