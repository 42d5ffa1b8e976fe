# The macOS half of setup.sh, which sources it: Homebrew formulae.
# shellcheck shell=bash

# libcurl comes with the SDK; Homebrew's is kept out of CMake's sight.
base_packages=(cmake ninja nlohmann-json fmt cli11 googletest highway
  libzip)
dev_packages=(llvm google-benchmark)  # llvm: clang-format, clang-tidy

# install_packages [dev]
install_packages() {
  local wanted=("${base_packages[@]}") missing=() installed package
  [[ ${1:-} == dev ]] && wanted+=("${dev_packages[@]}")
  have c++ || give_up "a compiler is missing; run: xcode-select --install"
  have brew || give_up "Homebrew is missing; see https://brew.sh"

  # The folder of installed formulae answers faster than `brew list` does.
  installed=$(ls "$(brew --prefix)/opt")
  for package in "${wanted[@]}"; do
    grep -qx "$package" <<<"$installed" || missing+=("$package")
  done
  ((${#missing[@]} == 0)) && return
  say "installing ${missing[*]}"
  brew install --quiet "${missing[@]}" </dev/null >&2 ||
    give_up "run this, then try again: brew install ${missing[*]}"
}
