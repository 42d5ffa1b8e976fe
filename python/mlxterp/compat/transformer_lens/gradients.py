"""Gradients at hook points: derivatives with respect to a zero that is added
there, all in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx

from ...errors import UsageError


def values_and_gradients(
    model: Any,
    rows: Any,
    edits: Sequence[tuple[str, Callable]],
    sites: Mapping[str, str],
    scalar: Callable[[mx.array], mx.array],
) -> tuple[mx.array, mx.array, dict[str, mx.array], dict[str, mx.array]]:
    """(logits, scalar of them, values by name, gradients by name) of one pass with
    edits; sites that the pass has not are left out. Evaluated. Raises UsageError
    where `scalar` gives no single number."""
    plain = model.engine.run(rows, edits)
    values = {}
    for name, site in sites.items():
        with suppress(UsageError):
            values[name] = plain.value(site)
    zeros = {name: mx.zeros(it.shape, it.dtype) for name, it in values.items()}

    def of(added: dict[str, mx.array]) -> mx.array:
        adding = [(sites[name], lambda x, by=by: x + by) for name, by in added.items()]
        found = mx.array(scalar(model.engine.run(rows, [*edits, *adding]).output))
        if found.size != 1:
            raise UsageError(
                "gradients are those of one number: return_type='loss', or a function "
                f"of the logits that gives one, not shape {tuple(found.shape)}"
            )
        return found.reshape(())

    value, gradients = mx.value_and_grad(of)(zeros)
    plain.check([plain.output, value, *values.values(), *gradients.values()])
    return plain.output, value, values, gradients
