#!/usr/bin/env bash
# Puts the demo model, SmolLM2-135M-Instruct (Apache-2.0, 98 MB), into the
# user's cache folder: $MLXTERP_CACHE, else $XDG_CACHE_HOME/mlxterp, else
# ~/.cache/mlxterp. Nothing to do when it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${MLXTERP_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set}/.cache}/mlxterp}
file=SmolLM2-135M-Instruct.Q4_1.gguf
bytes=98362432

if [[ -f $cache/$file && $(wc -c <"$cache/$file") -eq $bytes ]]; then
  exit
fi
exec .venv/bin/python scripts/fetch_demo.py "$cache/$file" "$bytes"
