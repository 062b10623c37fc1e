#!/usr/bin/env bash
# Builds images: deploy/image.sh [TAG [NAME…]], of the names agent, runtime (both if none is given), operator and peer.
# PREFIX names where they go (flowgroup-agent, …), BASE the image below. With docker, podman or buildah, whichever works here;
# with CLUSTER set to a script that has `build TAG DIR [options]` (a test cluster which loads what it builds), with that.
set -euo pipefail
cd "$(dirname "$0")/.."
tag=${1:-dev} prefix=${PREFIX:-flowgroup} base=${BASE:-python:3.11-slim}
shift || true
[ $# -gt 0 ] || set -- agent runtime

build() { # image options...
	local image=$1
	shift
	if [ -n "${CLUSTER:-}" ]; then
		"$CLUSTER" build "docker.io/library/$image" . "$@"
	elif docker info >/dev/null 2>&1; then
		docker build --quiet --tag "$image" "$@" .
	elif command -v podman >/dev/null 2>&1; then
		podman build --quiet --tag "$image" "$@" .
	elif command -v buildah >/dev/null 2>&1; then
		buildah build --quiet --layers --tag "$image" "$@" .
	else
		echo "building needs docker, podman or buildah" >&2
		exit 2
	fi
}

for name in "$@"; do
	options=(--build-arg "BASE=$base" --file Dockerfile --target "$name" --build-arg "VERSION=$tag")
	[ "$name" != operator ] || options=(--build-arg "BASE=$base" --file deploy/operator.Dockerfile)
	build "$prefix-$name:$tag" "${options[@]}" >&2
	echo "$prefix-$name:$tag"
done
