#!/usr/bin/env bash
# Compiles each src/*/cuda/*.cu to the PTX text that the library carries beside
# it in *_ptx.h, so that neither a build nor a first run needs
# CUDA's compiler. Needs clang 14 or newer with the NVPTX target.
#   scripts/make_ptx.sh [CLANG]
set -euo pipefail
cd "$(dirname "$0")/.."
clang=${1:-$(compgen -c clang++ | grep -xE 'clang\+\+(-[0-9]+)?' | sort | head -1)}
# Bfloat16 came with sm_80; a newer card's driver takes the same text.
for source in src/*/cuda/*.cu; do
  name=$(basename "$source" .cu)
  "$clang" -x cuda --cuda-device-only --cuda-gpu-arch=sm_80 -nocudainc \
    -nocudalib -O3 -Xclang -target-feature -Xclang +ptx70 -std=c++20 \
    -S "$source" -o - | python3 scripts/ptx_to_header.py "$name" \
    >"$(dirname "$source")/${name}_ptx.h"
done
