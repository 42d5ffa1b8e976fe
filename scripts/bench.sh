#!/usr/bin/env bash
# Runs every benchmark that was built, one after the other.
set -euo pipefail
cd "$(dirname "$0")/.."

shopt -s nullglob
benchmarks=(build/bin/*_bench)
((${#benchmarks[@]})) || { echo "no benchmark was built" >&2; exit 1; }
for benchmark in "${benchmarks[@]}"; do
  echo "== $benchmark"
  "$benchmark"
done
