#!/usr/bin/env bash
# Prints the chart as plain manifests, for `kubectl apply --server-side -f deploy/flowgroup.yaml`: deploy/render.sh [helm options]
set -euo pipefail
cd "$(dirname "$0")/.."
cat <<'TEXT'
# Made by `make chart` from helm/flowgroup with deploy/values.yaml. Its namespace and the Secret `store` must be there:
#   kubectl create namespace flowgroup
#   kubectl -n flowgroup create secret generic store --from-literal=AWS_ACCESS_KEY_ID=… --from-literal=AWS_SECRET_ACCESS_KEY=…
TEXT
exec "${HELM:-helm}" template flowgroup helm/flowgroup --namespace flowgroup --kube-version 1.34.0 --no-hooks -f deploy/values.yaml "$@"
