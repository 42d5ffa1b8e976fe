"""Activations of many prompts, in batches."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from .. import _core
from ..errors import UsageError
from ._native import inputs, native, options, several


@dataclass
class Collected:
    """`values`: canonical name of each site to [row, ...], a row for each
    position kept, in the order of the prompts; `lengths`: rows of each prompt.
    """

    values: dict[str, mx.array]
    lengths: list[int]


def collect(
    model,
    prompts,
    sites: str | list[str],
    positions: str = "all",
    batch_size: int = 8,
    interventions: dict | None = None,
    progress=None,
) -> Collected:
    """Runs all prompts, `batch_size` at a time, and keeps the sites named
    (patterns too) at "all" real positions or the "last" of each prompt; padding
    is left out. Memory is what is kept and one batch. Evaluates. Sites of
    layout [batch, head, dest, src] are refused with UsageError."""
    if positions not in ("all", "last"):
        raise UsageError(f"positions {positions!r} is not one of 'all', 'last'")
    chosen = options(
        model,
        _core.CollectOptions,
        progress,
        positions=_core.Positions[positions],
        batch_size=batch_size,
        edits=interventions,
    )
    values, lengths = _core.collect(
        native(model, "collect()"), inputs(model, prompts), several(sites), chosen
    )
    return Collected(dict(values), lengths)
