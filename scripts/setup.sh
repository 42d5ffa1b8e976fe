#!/usr/bin/env bash
# Installs what is missing; does nothing, quickly, when nothing is.
#   scripts/setup.sh        what building and the demo need
#   scripts/setup.sh wheel  what makes a wheel for other machines as well
#   scripts/setup.sh test   and what the tests of the Python package need
#   scripts/setup.sh docs   and what the documentation is built with
#   scripts/setup.sh dev    clang-format, clang-tidy and the benchmarks, too
# Exit code 4: something is missing that this script may not install.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
give_up() { say "$@"; exit 4; }
have() { command -v "$1" >/dev/null 2>&1; }

# 1. System packages.
case "$(uname -s)" in
  Linux) source scripts/setup_linux.sh ;;
  Darwin) source scripts/setup_macos.sh ;;
  *) give_up "mlxterp builds on Linux and macOS; this is $(uname -s)" ;;
esac
install_packages "${1:-}"

# 2. Rust, for the tokenizer. Distributions' own is often too old for it.
if ! have cargo && [[ ! -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]]; then
  give_up "Rust is missing; install it with
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y"
fi

files=(requirements.txt)
[[ ${1:-} ]] && files+=(requirements-wheel.txt)
[[ ${1:-} =~ ^(test|docs|dev)$ ]] && files+=(requirements-test.txt)
[[ ${1:-} == docs ]] && files+=(requirements-docs.txt)

# 3. .venv with the pinned MLX wheel, which holds its C++ headers and library.
other_platform=darwin
[[ $(uname -s) == Darwin ]] && other_platform=linux
requirements_met() {
  local requirement site
  for site in .venv/lib/python3*/site-packages; do
    compgen -G "$site/mlx/lib/libmlx.*" >/dev/null || return 1
    while read -r requirement; do
      [[ -d "$site/$requirement.dist-info" ]] || return 1
    done < <(sed -n -e "/sys_platform == \"$other_platform\"/d" \
      -e 's/^\([A-Za-z0-9_]*\)[^=]*==\([0-9.]*\).*/\1-\2/p' "${files[@]}")
  done
}

if [[ ! -x .venv/bin/python ]] || ! requirements_met; then
  python=
  for candidate in python3 python3.{14,13,12,11}; do
    if "$candidate" -c 'import sys, venv, ensurepip
sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  [[ $python ]] || give_up "Python 3.11 or newer, with venv, is missing"
  say "installing ${files[*]} into .venv"
  [[ -x .venv/bin/python ]] || "$python" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check \
    "${files[@]/#/--requirement=}" ||
    give_up "pip could not install ${files[*]} (is there a network?)"
fi
