"""The residual stream of prompts at chosen layers and positions."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import mlx.core as mx

from ..analysis.layer_sites import absolute, checked_layers, traced_layers
from ..errors import UsageError


def get_activations(
    model: Any,
    prompts: str | list[str],
    layers: Sequence[int] | None = None,
    positions: int | Sequence[int] = -1,
) -> dict[str, mx.array]:
    """The output of layers at positions of one or several prompts.

    Prompts of different lengths share a batch, the shorter ones padded; every
    position counts within its own prompt, a negative one from that prompt's
    last token.

    `layers`: indices of layers, None means all; `positions`: one or several.
    Returns {"layer_{i}": [prompt, d_model]}, or [prompt, position, d_model] for
    more than one position, evaluated. Raises UsageError for no prompt or no
    position, OutOfRangeError for a layer or position beyond what there is.
    """
    if isinstance(prompts, str):
        prompts = [prompts]
    if len(prompts) == 0:
        raise UsageError("there is no prompt; pass at least one")
    positions = [positions] if isinstance(positions, Integral) else list(positions)
    if not positions:
        raise UsageError("there is no position; pass at least one, such as -1")
    layers = checked_layers(model, layers)
    result: dict[str, mx.array] = {}
    if not layers:
        return result
    hidden, _, lengths = traced_layers(model, prompts, layers)
    rows = [
        [absolute(p, n, f"row {i}") for p in positions] for i, n in enumerate(lengths)
    ]
    at = mx.array(rows)[:, :, None]
    for layer, value in zip(layers, hidden):
        chosen = mx.take_along_axis(value, at, axis=1)
        result[f"layer_{layer}"] = chosen[:, 0] if len(positions) == 1 else chosen
    mx.eval(result)
    return result


def batch_get_activations(
    model: Any,
    prompts: Sequence[str],
    layers: Sequence[int] | None = None,
    positions: int | Sequence[int] = -1,
    batch_size: int = 8,
) -> dict[str, mx.array]:
    """`get_activations` of many prompts, `batch_size` of them at a time.

    Returns what `get_activations` returns for all of them at once; {} for no
    prompts. Raises UsageError also for a `batch_size` below 1.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, but is {batch_size}")
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    batches = [
        get_activations(model, prompts[at : at + batch_size], layers, positions)
        for at in range(0, len(prompts), batch_size)
    ]
    if not batches:
        return {}
    return {key: mx.concatenate([b[key] for b in batches]) for key in batches[0]}
