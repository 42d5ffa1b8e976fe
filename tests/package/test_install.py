"""`cmake --install`: what is installed runs and can be built against wherever
it lies, with the checkout and its environment out of reach."""

import json
import os
import shutil

import pytest
from outside import (
    BUILD,
    CMAKE,
    LINUX,
    SOURCE,
    assert_same,
    lens_and_sweep,
    libraries,
    model_in,
    run,
    search_path,
)


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    """Installed, then moved."""
    folder = tmp_path_factory.mktemp("install")
    assert SOURCE not in folder.parents
    run(CMAKE, "--install", BUILD, "--prefix", folder / "first")
    (folder / "first").rename(folder / "moved")
    return folder / "moved"


def test_nothing_that_is_installed_knows_the_checkout(prefix):
    files = [path for path in prefix.rglob("*") if path.is_file()]
    assert len(files) > 100
    for path in files:
        assert os.fsencode(SOURCE) not in path.read_bytes(), path


def test_the_command_runs_by_itself(prefix, tmp_path):
    command, model = prefix / "bin/mlxterp", model_in(tmp_path)
    assert run(command, "--version").startswith("mlxterp 0.2.")
    for field, arguments in lens_and_sweep(model).items():
        told = json.loads(run(command, *arguments))[field]
        built = json.loads(run(BUILD / "bin/mlxterp", *arguments))[field]
        assert_same(told, built)
    if LINUX:
        assert all(folder.startswith("$ORIGIN/") for folder in search_path(command))
        found = libraries(command)
        assert found["libmlx.so"].is_relative_to(prefix)
        assert not any(path.is_relative_to(SOURCE) for path in found.values())


def test_a_project_finds_it_with_no_further_flag(prefix, tmp_path):
    # On the PATH is no Python that has MLX: the prefix brings its own.
    path = [folder for folder in os.environ["PATH"].split(":") if ".venv" not in folder]
    env = {"PATH": ":".join([str(prefix / "bin"), *path]), "HOME": str(tmp_path)}
    env |= {name: os.environ[name] for name in ("CXX", "CMAKE_GENERATOR")
            if name in os.environ}  # fmt: skip
    shutil.copytree(SOURCE / "tests/package/consumer", tmp_path / "consumer")
    build = tmp_path / "build"
    run(CMAKE, "-S", tmp_path / "consumer", "-B", build, env=env)
    run(CMAKE, "--build", build, env=env)
    assert run(build / "consumer").startswith("6\n")
    cache = (build / "CMakeCache.txt").read_text()
    assert str(SOURCE) not in cache
    if LINUX:
        assert libraries(build / "consumer")["libmlx.so"].is_relative_to(prefix)


def test_another_version_of_mlx_is_refused(prefix, tmp_path):
    (config,) = prefix.rglob("MLXConfig.cmake")
    other = shutil.copytree(config.parent, tmp_path / "mlx/share/cmake/MLX")
    version = other / "MLXConfigVersion.cmake"
    version.write_text('set(PACKAGE_VERSION "0.1")\n')
    with pytest.raises(AssertionError, match=r"exactly matches\s+requested version"):
        run(
            CMAKE, "-S", SOURCE / "tests/package/consumer", "-B", tmp_path / "build",
            f"-DCMAKE_PREFIX_PATH={prefix}", f"-DMLX_DIR={other}",
            env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
