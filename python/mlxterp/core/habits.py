"""What is said of a slip: the habits of a model made with `strict=True`. Those
of `strict=False` are `compat.v01.habits.Lax`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import UnknownNameError, UsageError
from .intervention import interventions


class Strict:
    """Every slip is an error."""

    #: Whether a trace that saved values keeps its activations, too.
    keeps_activations = False
    #: What `model.interventions` is.
    interventions = interventions

    def intervention(self, name: str, given: Any) -> Callable:
        """What acts at a site. Raises UsageError for what cannot."""
        if callable(given):
            return given
        raise UsageError(
            f"The intervention on '{name}' must be a function of an mx.array, not "
            f"{type(given).__name__}; replace_with(value) makes one of a value."
        )

    def sites_of_nothing(self, error: UnknownNameError) -> list[str]:
        """The sites that a name means which means nothing."""
        raise error

    def value_outside(self, name: str) -> Any:
        """What a value is outside of any trace."""
        raise UsageError(f"'{name}' has a value only inside `with model.trace(...)`.")
