"""Finds the layers of a model among the names of a trace's activations."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import mlx.core as mx

from .errors import OutOfRangeError, UnknownNameError, UsageError

# What attention is called differs by family; the two mean the same part.
_ALIASES = {"attn": "self_attn", "self_attn": "attn"}


def checked_layers(model: Any, layers: Iterable[int] | None) -> list[int]:
    """`layers`, or all of the model's. Raises OutOfRangeError."""
    count = len(model.layers)
    if layers is None:
        return list(range(count))
    chosen = [operator.index(layer) for layer in layers]
    for layer in chosen:
        if not 0 <= layer < count:
            raise OutOfRangeError(
                f"layer {layer} is out of range: the model has {count} layers, "
                f"0 to {count - 1}"
            )
    return chosen


def _shortest(keys: Iterable[str], end: str) -> str | None:
    """The shortest key that is `end` or ends with it behind a dot: where a
    model has several stacks of layers, the outermost."""
    found = [key for key in keys if key == end or key.endswith("." + end)]
    return min(found, key=len, default=None)


def layer_key(
    model: Any, activations: Mapping[str, Any], layer: int, component: str = ""
) -> str:
    """The key of a layer's output, or of the output of a part of it such as
    `mlp` or `self_attn.q_proj`. Raises UnknownNameError with the parts there
    are."""
    keys = list(activations)
    stacks = dict.fromkeys(
        [getattr(model, "_layer_attr", "layers"), "layers", "h"]
    )
    head, _, rest = component.partition(".")
    names = [component]
    if head in _ALIASES:
        names.append(_ALIASES[head] + ("." + rest if rest else ""))
    for name in names:
        for stack in stacks:
            end = f"{stack}.{layer}" + (f".{name}" if name else "")
            key = _shortest(keys, end)
            if key is not None:
                return key
    if not component:
        raise UnknownNameError(
            f"the trace holds no output of layer {layer}; pass the attribute "
            "of the layers as layer_attr"
        )
    block = layer_key(model, activations, layer) + "."
    parts = [key[len(block) :] for key in keys if key.startswith(block)]
    near = difflib.get_close_matches(component, parts, n=3, cutoff=0.4)
    raise UnknownNameError(
        f"layer {layer} has no part {component!r}; "
        + (f"near: {', '.join(near)}; " if near else "")
        + f"all: output, {', '.join(parts)}"
    )


def layer_outputs(
    model: Any, activations: Mapping[str, Any], layers: Iterable[int]
) -> list[mx.array]:
    """The residual stream behind each layer, [batch, pos, d_model], lazy."""
    outputs = []
    for layer in layers:
        value = activations[layer_key(model, activations, layer)]
        if isinstance(value, (tuple, list)):  # beside a cache, say
            value = value[0]
        if value.ndim != 3:
            raise UsageError(
                f"the output of layer {layer} has shape {tuple(value.shape)}; "
                "a lens reads [batch, pos, d_model]"
            )
        outputs.append(value)
    return outputs
