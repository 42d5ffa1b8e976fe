"""Finds the layers of a model among the names of a trace's activations."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

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
    """The key of a layer's output, or of a part of it such as `mlp` or
    `self_attn.q_proj`. Raises UnknownNameError with the parts there are."""
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
    # Not a module's output; it may be another value of the pass, as
    # `self_attn.z` is, where the model's engine names those.
    engine = getattr(model, "engine", None)
    for name in names if engine is not None else ():
        with suppress(UnknownNameError):
            return engine.resolve(f"layers.{layer}.{name}")
    block = layer_key(model, activations, layer) + "."
    parts = [key[len(block) :] for key in keys if key.startswith(block)]
    near = difflib.get_close_matches(component, parts, n=3, cutoff=0.4)
    raise UnknownNameError(
        f"layer {layer} has no part {component!r}; "
        + (f"near: {', '.join(near)}; " if near else "")
        + f"all: output, {', '.join(parts)}"
    )


class TracedLayers(NamedTuple):
    """What `traced_layers` reads; the arrays are lazy."""

    hidden: list[mx.array]  #: [batch, pos, d_model] behind each layer.
    logits: mx.array  #: What the model returned.
    lengths: list[int] | None  #: Real positions of each row, if told.


def traced_layers(
    model: Any, inputs: Any, layers: Iterable[int]
) -> TracedLayers:
    """The residual stream behind each layer. The trace ends with this
    function, so that evaluating the result keeps nothing else of the pass in
    memory. Raises UsageError where a layer does not return [batch, pos,
    d_model]."""
    with model.trace(inputs) as trace:
        hidden = []
        for layer in layers:
            value = trace.activations[
                layer_key(model, trace.activations, layer)
            ]
            if isinstance(value, (tuple, list)):  # beside a cache, say
                value = value[0]
            if value.ndim != 3:
                raise UsageError(
                    f"the output of layer {layer} has shape "
                    f"{tuple(value.shape)}; here [batch, pos, d_model] is read"
                )
            hidden.append(value)
        return TracedLayers(
            hidden, trace.output, getattr(trace, "lengths", None)
        )
