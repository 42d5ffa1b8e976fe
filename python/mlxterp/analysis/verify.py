"""Checks that the sites of a natively loaded model are consistent."""

from __future__ import annotations

from .. import _core
from ._native import Bar, native


def verify(model, progress=None) -> list[_core.Check]:
    """Ten checks of the algebra between sites (component sums, pattern rows,
    heads through W_O, fused against explicit attention, cached against full,
    ...), each with `name`, `passed`, `error` in parts of the largest value,
    `bound`, `compared` and `where`. Some eight passes of a short prompt."""
    return _core.verify(native(model, "verify()"), progress or Bar())
