"""Activations of many prompts, in batches."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from .. import _core
from ._native import asked, inputs


@dataclass
class Collected:
    """`values`: canonical name of each site to [row, ...], a row for each
    position kept, in the order of the prompts; `lengths`: rows of each prompt.
    """

    values: dict[str, mx.array]
    lengths: list[int]

    def __repr__(self) -> str:
        shapes = [f"{site} {value.shape}" for site, value in self.values.items()]
        return f"Collected({', '.join(shapes)}; {len(self.lengths)} prompts)"


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
    given = dict(locals())
    del given["prompts"], given["sites"]
    sites = [sites] if isinstance(sites, str) else list(sites)
    inner, chosen = asked("collect()", _core.CollectOptions, given, sites)
    values, lengths = _core.collect(inner, inputs(model, prompts), sites, chosen)
    return Collected(dict(values), lengths)
