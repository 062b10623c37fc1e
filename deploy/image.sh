#!/usr/bin/env bash
# Builds both images: deploy/image.sh [TAG]. PREFIX names where they go (flowgroup-agent, flowgroup-runtime), BASE the image below.
# With docker, podman or buildah, whichever works here; with CLUSTER set to a script that has `build TAG DIR [options]`
# (a test cluster which loads what it builds), with that.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-dev} prefix=${PREFIX:-flowgroup} base=${BASE:-python:3.11-slim}

build() { # target image
	local options=(--target "$1" --build-arg "BASE=$base" --build-arg "VERSION=$tag")
	if [ -n "${CLUSTER:-}" ]; then
		"$CLUSTER" build "docker.io/library/$2" . "${options[@]}"
	elif docker info >/dev/null 2>&1; then
		docker build --quiet --tag "$2" "${options[@]}" .
	elif command -v podman >/dev/null 2>&1; then
		podman build --quiet --tag "$2" "${options[@]}" .
	elif command -v buildah >/dev/null 2>&1; then
		buildah build --quiet --layers --tag "$2" "${options[@]}" .
	else
		echo "building needs docker, podman or buildah" >&2
		exit 2
	fi
}

for target in agent runtime; do
	build "$target" "$prefix-$target:$tag"
	echo "$prefix-$target:$tag"
done
