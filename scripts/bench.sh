#!/usr/bin/env bash
# Runs every benchmark that was built, one after the other; the one against
# mlx-lm where MLXTERP_PEERS names a Python that has it.
set -euo pipefail
cd "$(dirname "$0")/.."

shopt -s nullglob
benchmarks=(build/bin/*_bench)
((${#benchmarks[@]})) || { echo "no benchmark was built" >&2; exit 1; }
for benchmark in "${benchmarks[@]}"; do
  echo "== $benchmark"
  "$benchmark"
done
if [[ ${MLXTERP_PEERS:-} ]]; then
  echo "== benchmarks/against_mlx_lm.py"
  "$MLXTERP_PEERS" benchmarks/against_mlx_lm.py
  echo "== benchmarks/peers/real_model.py"
  "$MLXTERP_PEERS" benchmarks/peers/real_model.py
fi
