"""The wheel, in an environment that has MLX and NumPy and nothing else: from
Python and from the shell, with no compiler, no network and no checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from outside import (
    BUILD,
    CLEAN,
    CMAKE,
    CORRUPT,
    LINUX,
    METRIC,
    SOURCE,
    assert_same,
    lens_and_sweep,
    libraries,
    model_in,
    run,
    search_path,
)

# What is installed everywhere: the C and C++ libraries that manylinux names.
SYSTEM = (
    "linux-vdso ld-linux libc. libm. libstdc++ libgcc_s libdl libpthread librt "
    "libresolv libz."
)

PYTHON = """
import json, sys
import mlxterp
from mlxterp import InterpretableModel, lens, sweeps
path, metric, *prompts = sys.argv[1:]
clean, corrupt = ([int(i) for i in prompt.split(",")] for prompt in prompts)
model = InterpretableModel(path)
print(json.dumps({
    "file": mlxterp.__file__,
    "version": mlxterp.__version__,
    "blas": mlxterp._core.blas(),
    "rows": json.loads(lens(model, clean).to_json())["rows"],
    "effect": json.loads(sweeps.patch(model, clean, corrupt, metric).to_json())["effect"],
}))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The wheel and the sdist, of what is built."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [SOURCE / "scripts/wheel.sh", folder, BUILD], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@pytest.fixture(scope="module")
def fresh(made, tmp_path_factory):
    """An environment with the wheel and the two packages that it asks for."""
    folder = tmp_path_factory.mktemp("fresh")
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    site = Path(run(folder / "bin/python", "-c",
                    "import sysconfig; print(sysconfig.get_path('platlib'))").strip())  # fmt: skip
    for name in ("mlx", "mlx-cpu", "mlx-metal", "numpy"):
        for path in files_of(name):
            here = sysconfig.get_path("platlib") / path
            (site / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(here, site / path)
    # Fails where the wheel asks for more, or is not for this machine.
    run(sys.executable, "-m", "pip", "--python", folder / "bin/python", "install",
        "--quiet", "--disable-pip-version-check", "--no-index", made[0])  # fmt: skip
    return folder


def files_of(name):
    """What a package installed here, without its commands."""
    try:
        files = metadata.files(name) or []
    except metadata.PackageNotFoundError:  # of another platform
        return []
    return [path for path in files if ".." not in path.parts and path.suffix != ".pyc"]


def test_the_names_say_what_it_is(made):
    wheel, sdist = made
    assert wheel.name.startswith("mlxterp-0.2."), wheel
    assert sdist.name.startswith("mlxterp-0.2."), sdist
    if LINUX:
        assert "-manylinux_2_" in wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert any(name.endswith(".data/scripts/mlxterp") for name in names)
    assert not any("libmlx" in name for name in names), "libmlx is the mlx wheel's"
    if LINUX:
        assert any("openblas" in name for name in names)


def test_the_wheel_needs_the_system_and_mlx_only(fresh):
    if not LINUX:
        pytest.skip("ldd and readelf")
    (package,) = fresh.glob("lib/python3*/site-packages/mlxterp")
    (extension,) = package.glob("_core.*.so")
    for program in (extension, package / "bin/mlxterp"):
        assert all(folder.startswith("$ORIGIN/") for folder in search_path(program))
        for name, path in libraries(program).items():
            system = name.startswith(tuple(SYSTEM.split()))
            assert system or path.is_relative_to(fresh), f"{program}: {name} is {path}"


def test_lens_and_sweep_from_python_and_from_the_shell(fresh, tmp_path):
    model = model_in(tmp_path)
    # Neither a compiler nor another program is found, nor a home.
    env = {"PATH": str(fresh / "bin")}
    assert run("mlxterp", "--version", env=env).startswith("mlxterp 0.2.")
    told = json.loads(
        run(fresh / "bin/python", "-c", PYTHON, model, METRIC, CLEAN, CORRUPT, env=env)
    )
    for field, arguments in lens_and_sweep(model).items():
        built = json.loads(run(BUILD / "bin/mlxterp", *arguments))[field]
        shell = json.loads(run("mlxterp", *arguments, env=env))[field]
        assert_same(shell, built)
        assert_same(told[field], built)
    assert Path(told["file"]).is_relative_to(fresh)
    assert f"mlxterp {told['version']}\n" == run("mlxterp", "--version", env=env)
    if LINUX:
        assert "OpenBLAS" in told["blas"][0] and not told["blas"][1]


def test_the_sdist_is_whole(made, tmp_path):
    with tarfile.open(made[1]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    assert not (source / "tests").exists() and not (source / "build").exists()
    # Every file that the package is made of is there: all steps are known.
    build = tmp_path / "build"
    run(CMAKE, "-S", source, "-B", build, "-DMLXTERP_BUILD_PYTHON=ON",
        "-DMLXTERP_BUILD_TESTS=OFF", f"-DMLXTERP_PYTHON={sys.executable}", "-GNinja",
        env=os.environ)  # fmt: skip
    run(shutil.which("ninja"), "-C", build, "-n", "_core_stub", "mlxterp_packed")
