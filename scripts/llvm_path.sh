# Sourced: finds clang-format and clang-tidy where Homebrew keeps them apart.
# shellcheck shell=bash
if ! command -v clang-tidy >/dev/null && command -v brew >/dev/null; then
  PATH="$(brew --prefix llvm)/bin:$PATH"
fi
