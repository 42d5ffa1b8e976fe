"""The extension's stub is what nanobind makes of it: after a change,

python -m nanobind.stubgen -m mlxterp._core -O python/mlxterp
"""

from pathlib import Path

import mlxterp._core
from nanobind.stubgen import StubGen


def test_the_stub_is_up_to_date():
    made = StubGen(module=mlxterp._core)
    made.put(mlxterp._core)
    kept = Path(mlxterp.__file__).with_name("_core.pyi").read_text("utf-8")
    assert made.get().split() == kept.split()


def test_the_package_says_it_is_typed():
    assert Path(mlxterp.__file__).with_name("py.typed").exists()
