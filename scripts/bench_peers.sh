#!/usr/bin/env bash
# Installs the peers into an environment of their own and runs the sweeps of
# all of them in one run. MLXTERP_PEERS names a Python that has them already;
# MLXTERP_UPSTREAM, a folder with mlxterp 0.1, whose lenses then run too.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${MLXTERP_PEERS:-.venv-peers/bin/python}
if [[ ! ${MLXTERP_PEERS:-} && ! -f .venv-peers/complete ]]; then
  echo "installing the peers into .venv-peers (about 5 GB)" >&2
  python3 -m venv .venv-peers
  .venv-peers/bin/python -m pip install --quiet --disable-pip-version-check \
    -r benchmarks/peers/requirements.txt
  touch .venv-peers/complete
fi
"$python" benchmarks/peers/patching.py "$@"
if [[ ${MLXTERP_UPSTREAM:-} ]]; then
  cmake --preset release -DMLXTERP_BUILD_BENCHMARKS=ON >&2
  cmake --build build --target mlxterp_worker >&2
  "$python" benchmarks/peers/upstream.py
fi
