#!/usr/bin/env bash
# Asks registries for the digest of every image that the Dockerfile and the composition name, and writes them to
# deploy/digests.env: `docker compose --env-file .env --env-file deploy/digests.env up`. All or nothing: a digest that
# was not read from its registry is never written.
set -euo pipefail
cd "$(dirname "$0")/.."
found=$(mktemp)
trap 'rm -f "$found"' EXIT
images() {
  sed -n 's/^ARG PYTHON_BASE=/PYTHON_BASE=/p' Dockerfile
  grep -oE '\$\{[A-Z_]+_IMAGE:-[^}]+\}' docker-compose.yml | sed -E 's/^\$\{([A-Z_]+):-([^}]+)\}$/\1=\2/' | grep -v '=framepack-' | sort -u
}
while IFS='=' read -r name image; do
  digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image" </dev/null) ||
    { echo "digests: no registry answered for $image; nothing was written" >&2; exit 1; }
  [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || { echo "digests: $image: '$digest' is no digest; nothing was written" >&2; exit 1; }
  echo "$name=$image@$digest" >>"$found"
done < <(images)
cp "$found" "${1:-deploy/digests.env}"
