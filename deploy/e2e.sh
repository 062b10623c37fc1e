#!/usr/bin/env bash
# Runs a command that needs a Kubernetes: deploy/e2e.sh COMMAND…. That of $KUBECONFIG is taken, or the test cluster in ../shared. Where
# there is neither, a kind cluster `flowgroup-e2e` is made, with the images on its nodes, and goes with the command.
# BUILD=no: the cluster is there already, with images of the tag e2e.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -z "${KUBECONFIG:-}" ] && [ ! -x ../shared/cluster/cluster ] && command -v kind >/dev/null || exec "$@"

folder=$(mktemp -d)
export KUBECONFIG=$folder/kubeconfig
trap 'kind delete cluster --name flowgroup-e2e; rm -rf "$folder"' EXIT
KIND=flowgroup-e2e TAG=e2e deploy/up.sh images
export FLOWGROUP_E2E_TAG=e2e FLOWGROUP_E2E_IMAGE=docker.io/library/flowgroup-runtime:e2e
# This machine, as pods reach it.
FLOWGROUP_E2E_HOST=$(docker network inspect kind --format '{{range .IPAM.Config}}{{println .Gateway}}{{end}}' | grep -m1 '[.]')
export FLOWGROUP_E2E_HOST
"$@"
