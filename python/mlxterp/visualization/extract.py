"""Attention patterns out of a trace, as numpy arrays."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import mlx.core as mx
import numpy as np

from ..errors import OutOfRangeError, UnknownNameError, UsageError

_SUFFIX = ".attention_weights"


def _keys_by_layer(trace: Any) -> dict[int, str]:
    """The key of each layer's pattern: the layer is the first number in it."""
    found: dict[int, str] = {}
    for key in trace.activations:
        numbers = [part for part in key.split(".") if part.isdigit()]
        if key.endswith(_SUFFIX) and numbers:
            found.setdefault(int(numbers[0]), key)
    return dict(sorted(found.items()))


def get_attention_patterns(
    trace: Any, layers: int | Sequence[int] | None = None
) -> dict[int, np.ndarray]:
    """The attention patterns that a trace, which may be finished, has seen, of one
    layer, several, or all that have one: {layer: [batch, head, destination,
    source]}, whose rows sum to 1. Raises UnknownNameError for a layer without.
    """
    keys = _keys_by_layer(trace)
    layers = keys if layers is None else layers
    layers = [layers] if isinstance(layers, Integral) else layers
    chosen = [operator.index(layer) for layer in layers]
    missing = [layer for layer in chosen if layer not in keys]
    if missing:
        raise UnknownNameError(
            f"layer {missing[0]} has no attention pattern in this trace; "
            f"layers that have: {', '.join(map(str, keys)) or 'none'}"
        )
    values = {layer: trace.activations[keys[layer]] for layer in chosen}
    mx.eval(values)
    return {layer: to_numpy(value) for layer, value in values.items()}


def to_numpy(value: Any) -> np.ndarray:
    """An array as numpy's; half precision as float32."""
    if isinstance(value, mx.array) and value.dtype in (mx.bfloat16, mx.float16):
        value = value.astype(mx.float32)
    return np.array(value)


def row_patterns(
    trace: Any,
    layers: int | Sequence[int] | None,
    tokens: Sequence[str] | None = None,
) -> dict[int, np.ndarray]:
    """The patterns of a trace's first row, which has these tokens, without
    padding; UsageError where it has none at all."""
    patterns = get_attention_patterns(trace, layers)
    if not patterns:
        raise UsageError(
            "the trace has no attention patterns: this model's attention is of "
            "a kind whose pattern is not computed"
        )
    count = getattr(trace, "lengths", [None])[0]
    if count is None or tokens is not None and len(tokens) != count:
        return patterns
    return {i: value[:1, :, :count, :count] for i, value in patterns.items()}


def head_pattern(attention: Any, head: int = 0) -> np.ndarray:
    """One head of the first row: [destination, source] of [batch, head,
    destination, source], [head, destination, source] or [destination, source].
    Raises UsageError, OutOfRangeError."""
    attention = to_numpy(attention)
    if not 2 <= attention.ndim <= 4:
        raise UsageError(
            "attention must be [batch, head, destination, source] or its last "
            f"two or three axes, but has shape {attention.shape}"
        )
    attention = attention[0] if attention.ndim == 4 else attention
    if attention.ndim == 2:
        return attention
    if not 0 <= head < attention.shape[0]:
        raise OutOfRangeError(
            f"head {head} is out of range: there are {attention.shape[0]} heads"
        )
    return attention[head]


def check_tokens(pattern: np.ndarray, tokens: Sequence[str]) -> None:
    """Raises UsageError where a pattern is not over these tokens."""
    destinations, sources = pattern.shape[-2:]
    if sources != len(tokens) or destinations > sources:
        raise UsageError(
            f"the pattern is {destinations} by {sources}, but there are "
            f"{len(tokens)} tokens; take them from model.to_str_tokens of the "
            "traced text"
        )
