# Every everyday task in one word; the work is done by CMake and scripts/.
.DEFAULT_GOAL := help
PREFIX ?= /usr/local

.PHONY: help setup setup-build setup-wheel setup-test setup-docs demo python \
        wheel build test docs notebooks lint lint-changed format format-check check-includes \
        asan asan-ci nightly debug bench bench-peers install clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s%s\n", $$1, $$2}' \
	  Makefile

setup:  ## Install what is missing, for building, testing and linting
	@scripts/setup.sh dev

setup-build:  # the smallest set: what `make demo` needs
	@scripts/setup.sh

setup-wheel:  # and what a wheel for other machines is made with
	@scripts/setup.sh wheel

setup-test:  # and what the tests of the Python package need
	@scripts/setup.sh test

setup-docs:  # and what the documentation is built with
	@scripts/setup.sh docs

demo: setup-build build/build.ninja  ## Fetch a small model, read and edit it, write demo.html
	@cmake --build build --target mlxterp_cli
	@scripts/fetch_demo.sh
	@scripts/demo.sh

build: setup-build build/build.ninja  ## Build everything into build/
	@cmake --build build

test: setup-test build  ## Build and run every test
	@scripts/fetch_demo.sh
	@ctest --preset release

# Packs what `build` compiles; nothing is compiled twice.
python: setup-build build/build.ninja  ## Install the Python package and its command into .venv
	@cmake --build build --target _core_stub mlxterp_packed
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check \
	  --no-build-isolation --force-reinstall --no-deps \
	  --config-settings=build-dir=build/package \
	  --config-settings=cmake.define.MLXTERP_BUILT="$(CURDIR)/build" .

wheel: setup-wheel build/build.ninja  ## Make dist/*.whl for machines like this, and the sdist
	@cmake --build build --target _core_stub mlxterp_packed
	@scripts/wheel.sh dist

docs: setup-docs  ## Build the documentation of the Python package into build/site
	@NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs --quiet build --strict

notebooks: setup-docs python  ## Run the tutorials again into docs/tutorials/*.ipynb
	@scripts/fetch_demo.sh
	@.venv/bin/python docs/make_notebooks.py

lint: setup  ## clang-tidy, warnings are errors
	@scripts/lint.sh

lint-changed: setup  ## The same on what differs from main (CI: 6 files at most)
	@scripts/lint.sh --changed $(if $(CI),6)

format: setup  ## Format the C++ sources
	@scripts/format.sh

format-check: setup  ## Fail if a C++ source is not formatted
	@scripts/format.sh --check

check-includes:  ## Check that each folder includes only those before it
	@python3 scripts/check_includes.py

asan: setup-build build-asan/build.ninja  ## Every test under ASan and UBSan
	@cmake --build build-asan
	@scripts/fetch_demo.sh
	@ctest --preset asan

asan-ci: setup-build build-asan-ci/build.ninja  # those of core, io and text
	@cmake --build build-asan-ci
	@scripts/fetch_demo.sh
	@ctest --preset asan-ci

nightly:  ## Everything that can fail, in hours: CONTRIBUTING.md says what
	@scripts/nightly.sh

debug: setup-build build-debug/build.ninja  ## Build everything for a debugger
	@cmake --build build-debug

bench: setup  ## Build and run the benchmarks
	@cmake --preset release -DMLXTERP_BUILD_BENCHMARKS=ON
	@cmake --build build
	@scripts/fetch_demo.sh
	@scripts/bench.sh

bench-peers: setup-build build/build.ninja  ## The same sweeps by TransformerLens and nnsight (5 GB, once)
	@cmake --build build --target mlxterp_cli
	@scripts/fetch_demo.sh
	@scripts/bench_peers.sh

install: setup-build build/build.ninja  ## Install into PREFIX (/usr/local)
	@cmake --build build --target mlxterp_cli
	@cmake --install build --prefix "$(PREFIX)"

clean:  ## Remove the build; keep .venv and the model cache
	rm -rf build dist build-debug build-asan build-asan-ci build-lint build-python demo.html

# Configured once; ninja itself sees when a CMakeLists.txt changes.
build/build.ninja: CMakePresets.json
	@cmake --preset release
	@touch $@
build-debug/build.ninja: CMakePresets.json
	@cmake --preset debug
	@touch $@
build-asan/build.ninja: CMakePresets.json
	@cmake --preset asan
	@touch $@
build-asan-ci/build.ninja: CMakePresets.json
	@cmake --preset asan-ci
	@touch $@
