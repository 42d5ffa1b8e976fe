#!/usr/bin/env bash
# clang-tidy over our own sources; .clang-tidy says what it looks for.
#   scripts/lint.sh [PATH]            only what starts with this, e.g. src/io
#   scripts/lint.sh --changed [MOST]  only what differs from the branch that this
#                                     one left (MLXTERP_BASE, or main), and there
#                                     from ten commits ago; at most so many files,
#                                     those changed last first
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/llvm_path.sh

# What the changes are against.
base() {
  local base
  for base in "${MLXTERP_BASE:-}" origin/main main; do
    if [[ $base ]] && base=$(git merge-base HEAD "$base" 2>/dev/null); then
      if [[ $base != "$(git rev-parse HEAD)" ]]; then
        echo "$base"
        return
      fi
      break
    fi
  done
  git rev-list --max-count=11 --first-parent HEAD | tail -1
}

# Sources of ours that differ from commit $1, those changed last first; for a
# header, the source of its name.
changed() {
  {
    git status --porcelain --no-renames --untracked-files=all | cut -c4-
    git log --format= --name-only --no-renames "$1..HEAD"
  } | sed -nE 's,^(include/mlxterp|src)/(.+)\.(h|cpp)$,src/\2.cpp,p
               s,^(apps/.+)\.(h|cpp)$,\1.cpp,p' |
    awk '!seen[$0]++' | while read -r file; do
      if [[ -f $file ]]; then echo "$file"; fi
    done
}

pattern="^$PWD/${1:-(src|apps)/}"
said=clean
if [[ ${1:-} == --changed ]]; then
  most=${2:-1000}
  from=$(base)
  files=()
  while read -r file; do files+=("$file"); done < <(changed "$from")
  if ((${#files[@]} == 0)); then
    echo "clang-tidy: no source differs from ${from:0:9}"
    exit
  fi
  said="clean, ${#files[@]} sources that differ from ${from:0:9}"
  if ((${#files[@]} > most)); then
    said="clean, $most of the ${#files[@]} sources that differ from ${from:0:9}"
    files=("${files[@]:0:most}")
  fi
  pattern="^$PWD/($(IFS='|'; echo "${files[*]//./\\.}"))\$"
fi

# A build tree of its own: clang cannot read GCC's precompiled headers.
cmake --preset lint >/dev/null
jobs=$(getconf _NPROCESSORS_ONLN)
log=build-lint/clang-tidy.log
if ! run-clang-tidy -quiet -p build-lint -j "$jobs" "$pattern" >"$log" 2>&1; then
  # Leave out colours, its own commands, and counts for system headers.
  sed $'s/\e\\[[0-9;]*m//g' "$log" |
    grep -vE '^clang-tidy|warnings? generated\.$' || cat "$log"
  exit 1
fi
grep -q clang-tidy "$log" || { echo "lint: no such source" >&2; exit 2; }
echo "clang-tidy: $said"
