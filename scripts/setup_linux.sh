# The Linux half of setup.sh, which sources it: Debian packages.
# shellcheck shell=bash

base_packages=(libopenblas-dev nlohmann-json3-dev libfmt-dev libcli11-dev
  libgtest-dev libhwy-dev libcurl4-openssl-dev libssl-dev libzip-dev
  python3-dev python3-venv)
dev_packages=(clang-format clang-tidy libbenchmark-dev)

# install_packages [dev]
install_packages() {
  local wanted=("${base_packages[@]}") missing=() sudo=()
  [[ ${1:-} == dev ]] && wanted+=("${dev_packages[@]}")

  # A tool may come from anywhere, so look for the command.
  have c++ || have g++ || missing+=(g++)
  have cmake || missing+=(cmake)
  have ninja || missing+=(ninja-build)

  if ! have apt-get; then
    # Not Debian: CMake will name what it cannot find.
    ((${#missing[@]} == 0)) && return
    give_up "install these, under your distribution's names:" \
      "${missing[*]} ${wanted[*]}"
  fi

  local installed package
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' \
    "${wanted[@]}" 2>/dev/null || true)
  for package in "${wanted[@]}"; do
    grep -qx "installed $package" <<<"$installed" || missing+=("$package")
  done
  ((${#missing[@]} == 0)) && return

  if [[ $(id -u) != 0 ]]; then
    if have sudo && sudo -n true 2>/dev/null; then
      sudo=(sudo)
    else
      give_up "some Debian packages are missing; run this, then try again:
    sudo apt-get install -y ${missing[*]}"
    fi
  fi
  say "installing ${missing[*]}"
  local apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive
    apt-get -qq -o DPkg::Lock::Timeout=300)
  { "${apt[@]}" update &&
    "${apt[@]}" install -y --no-install-recommends "${missing[@]}"; } \
    </dev/null >&2 ||
    give_up "apt-get could not install ${missing[*]}"
}
