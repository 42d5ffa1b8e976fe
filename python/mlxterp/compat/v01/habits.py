"""What mlxterp 0.1 let pass in silence: the habits of a model made with
`strict=False`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from ... import _core
from ...core.habits import Strict
from ...errors import UnknownNameError
from . import interventions, replace_with


class _Nothing:
    """A value outside of any trace."""

    def save(self) -> None:
        return None


class Lax(Strict):
    """Names that mean nothing and `.save()` outside a trace are ignored, and a
    value or a text stands for the intervention it means, as 0.1 has it."""

    keeps_activations = True
    interventions = interventions

    def intervention(self, name: str, given: Any) -> Callable:
        """As `Strict`; of a number or an array, which may have other positions,
        `replace_with`; of a text, "zero_out" or as the shell has it."""
        if isinstance(given, (mx.array, int, float)):
            return replace_with(given)
        if isinstance(given, str):
            known = getattr(interventions, given, None)
            return known if callable(known) else _core.parse_intervention(given)
        return super().intervention(name, given)

    def sites_of_nothing(self, error: UnknownNameError) -> list[str]:
        """None."""
        return []

    def value_outside(self, name: str) -> _Nothing:
        """Something whose `save` gives None."""
        return _Nothing()
