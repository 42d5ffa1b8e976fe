#!/usr/bin/env bash
# Everything that can fail, for hours; goes on after a failure and ends with a
# list of what passed, failed and could not be run here.
#   scripts/nightly.sh [STEP]...    only these
set -uo pipefail
cd "$(dirname "$0")/.."
export CI=true
failed=() left_out=()

lint() { scripts/lint.sh; }

# Every public header compiles alone.
headers() { cmake --build build --target public_headers; }

# Every test under ASan and UBSan, not only those that .ci/run has time for.
asan() { make --no-print-directory asan; }

on() {  # [NAME=VALUE]... TESTS: those tests in another environment
  local tests=${!#}
  env OPENBLAS_NUM_THREADS=1 "${@:1:$#-1}" \
    ctest --test-dir build --output-on-failure --timeout 3600 -R "$tests"
}
numeric='^(nn|models|trace|analysis|python)\.'

# Sums in another order at every call (tests/core/reordered_blas.cpp).
reordered() {
  on LD_PRELOAD="$PWD/build/tests/libopenblas_reordered.so" "$numeric"
}

threads() { on OPENBLAS_NUM_THREADS=2 "$numeric"; }

# The kernels that OpenBLAS has for other processors, as far as this one can run
# them: `info` multiplies once.
kernels() {
  local kernel status=0
  for kernel in SkylakeX Haswell Zen Sandybridge Nehalem Prescott; do
    if OPENBLAS_CORETYPE=$kernel build/bin/mlxterp info demo 2>/dev/null |
      grep -qi "blas.*$kernel"; then
      echo "-- $kernel"
      on OPENBLAS_CORETYPE=$kernel "$numeric" || status=1
    else
      left_out+=("kernel $kernel")
    fi
  done
  return $status
}

# Whatever Pythons are here beside .venv's: the extension and its tests.
pythons() {
  local version own status=0
  own=$(.venv/bin/python -c 'import sys; print("3.%d" % sys.version_info[1])')
  for version in 3.10 3.11 3.12 3.13 3.14; do
    [[ $version == "$own" ]] && continue
    if ! command -v "python$version" >/dev/null; then
      left_out+=("Python $version")
      continue
    fi
    echo "-- Python $version"
    local tree=build-python/$version
    { "python$version" -m venv "$tree/venv" &&
      "$tree/venv/bin/pip" install --quiet -r requirements.txt \
        -r requirements-test.txt &&
      cmake --preset release -B "$tree" \
        -DMLXTERP_PYTHON="$PWD/$tree/venv/bin/python" >/dev/null &&
      cmake --build "$tree" --target _core mlxterp_cli wrong_blas &&
      ctest --test-dir "$tree" --output-on-failure -R '^python\.'; } || status=1
  done
  return $status
}

bench() { make --no-print-directory bench; }

steps=("$@")
((${#steps[@]})) || steps=(lint headers asan reordered threads kernels pythons bench)
{ make --no-print-directory setup format-check check-includes build &&
  scripts/fetch_demo.sh; } || exit 1
if ((!$#)) && ! make --no-print-directory test; then failed+=(test); fi
for step in "${steps[@]}"; do
  echo "== $step, after $SECONDS s"
  "$step" || failed+=("$step")
done
echo "nightly: ${SECONDS} s; not to be had here: ${left_out[*]-nothing}"
if ((${#failed[@]})); then
  echo "nightly: failed: ${failed[*]}"
  exit 1
fi
echo "nightly: all passed"
