#!/usr/bin/env bash
# Formats every C++ source, or with --check only says which are not formatted.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/llvm_path.sh

action=(-i)
[[ ${1:-} == --check ]] && action=(--dry-run --Werror)
git ls-files -z --cached --others --exclude-standard -- '*.h' '*.cpp' |
  xargs -0 clang-format "${action[@]}"
