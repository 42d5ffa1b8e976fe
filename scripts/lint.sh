#!/usr/bin/env bash
# clang-tidy over our own sources; .clang-tidy says what it looks for.
#   scripts/lint.sh [PATH]    only what starts with this, e.g. src/io
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/llvm_path.sh

# A build tree of its own: clang cannot read GCC's precompiled headers.
cmake --preset lint >/dev/null
jobs=$(getconf _NPROCESSORS_ONLN)
log=build-lint/clang-tidy.log
if ! run-clang-tidy -quiet -p build-lint -j "$jobs" \
  "^$PWD/${1:-(src|apps)/}" >"$log" 2>&1; then
  # Leave out colours, its own commands, and counts for system headers.
  sed $'s/\e\\[[0-9;]*m//g' "$log" |
    grep -vE '^clang-tidy|warnings? generated\.$' || cat "$log"
  exit 1
fi
grep -q clang-tidy "$log" || { echo "lint: no such source" >&2; exit 2; }
echo "clang-tidy: clean"
