"""What the tests of both packages share: a model, and a look at what a program
is linked with, from a place where nothing of the checkout can be found."""

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("MLXTERP_BUILD", SOURCE / "build"))
CMAKE = os.environ.get("CMAKE") or shutil.which("cmake")
LINUX = sys.platform == "linux"

# A small model without a tokenizer: prompts are ids.
CLEAN, CORRUPT = "3,1,4,1,5,9,2,6", "3,1,4,1,5,9,8,6"
METRIC = "logit_diff(id:7, id:11)"


def lens_and_sweep(model):
    """The arguments of a lens and of a sweep, and the field of each answer that
    holds its numbers."""
    return {
        "rows": ["lens", model, "--ids", CLEAN, "--json"],
        "effect": ["patch", model, "--clean-ids", CLEAN, "--corrupt-ids", CORRUPT,
                   "--metric", METRIC, "--json"],
    }  # fmt: skip


def assert_same(told, expected):
    """The same answer, as another program computes it."""
    assert numbers_compared(told, expected) >= 16


def numbers_compared(a, b):
    if isinstance(a, float) or isinstance(b, float):
        assert math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-4), (a, b)
        return 1
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        return sum(numbers_compared(a[key], b[key]) for key in a)
    if isinstance(a, list):
        assert len(a) == len(b)
        return sum(map(numbers_compared, a, b))
    assert a == b
    return 0


def run(*command, env=None, cwd=None):
    """A command with no environment but `env`, in which it must succeed."""
    done = subprocess.run(
        [str(word) for word in command],
        env=env or {},
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def model_in(folder):
    """A copy of a fixture, as a user's model."""
    fixture = SOURCE / "tests/parity/families/llama-gqa"
    model = folder / "model"
    model.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(fixture / name, model)
    return model


def libraries(program):
    """Where each shared library of a program is found: {name: path}."""
    found = {}
    for line in run("/usr/bin/ldd", program, env={"PATH": "/usr/bin:/bin"}).splitlines():
        name, arrow, path = line.strip().partition(" => ")
        if arrow:
            assert "not found" not in path, line
            found[name] = Path(os.path.realpath(path.rpartition(" ")[0]))
    assert len(found) > 5, found
    return found


def search_path(program):
    """The folders in which a program looks for libraries, as it names them."""
    told = run("/usr/bin/readelf", "-d", program)
    return [
        folder
        for line in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", told)
        for folder in line.split(":")
    ]
