"""OpenBLAS multiplies, whichever of MLX and mlxterp was imported first, and one
that multiplies wrongly is refused; each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECK = """
import numpy as np
x = mx.random.normal((70, 300))
y = mx.random.normal((300, 90))
near = np.asarray(x).astype(np.float64) @ np.asarray(y).astype(np.float64)
assert np.abs(np.asarray(x @ y) - near).max() < 1e-4
print(mlxterp._core.blas())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux' wheel has a slow one")
@pytest.mark.parametrize(
    "first", ["mlx.core as mx, mlxterp", "mlxterp, mlx.core as mx"]
)
def test_openblas_answers(first):
    warm = "mx.eval(mx.ones((8, 8)) @ mx.ones((8, 8)))"
    code = f"import {first}\n{warm}\n{CHECK}"
    if first.startswith("mlx.core"):
        code = f"import mlx.core as mx\n{warm}\n{code}"  # it has been called, too
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        env={"PYTHONPATH": str(Path(__file__).parents[2] / "python")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "OpenBLAS" in done.stdout and "False" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="a Mac has one BLAS only")
@pytest.mark.parametrize("first", ["mlx.core, mlxterp", "mlxterp"])
def test_a_blas_that_multiplies_wrongly_is_refused(first):
    root = Path(__file__).parents[2]
    wrong = os.environ.get("MLXTERP_WRONG_BLAS")
    wrong = Path(wrong or root / "build/tests/libopenblas_wrong.so")
    assert wrong.exists(), "build the target wrong_blas"
    done = subprocess.run(
        [sys.executable, "-c", f"import {first}"],
        env={"PYTHONPATH": str(root / "python"), "LD_PRELOAD": str(wrong)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("mlxterp.errors.IoError: [blas] OpenBLAS 0.0.1 (SkylakeX)")
    assert wrong.name in said and "OPENBLAS_CORETYPE=" in said
