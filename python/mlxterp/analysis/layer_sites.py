"""The layers of a model: their indices, sites and outputs."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

import mlx.core as mx

from ..errors import OutOfRangeError, UnknownNameError, UsageError

# What parts are called differs by family; the engine knows them by these.
_PARTS = {"attn": "attn_out", "self_attn": "attn_out", "mlp": "mlp_out"}


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


def absolute(position: int, length: int, what: str = "the text") -> int:
    """`position` counted from the front; -1 is the last of `length`. Raises
    OutOfRangeError."""
    position = operator.index(position)
    if not -length <= position < length:
        raise OutOfRangeError(
            f"position {position} is out of range: {what} has {length} "
            f"token{'s' * (length != 1)}, so {-length} to {length - 1}"
        )
    return position % length


def layer_site(model: Any, layer: int, part: str = "") -> str:
    """The site of a layer's output, or of a part of it: `mlp`, `attn`,
    `self_attn.q_proj`, `self_attn.z`. Raises UnknownNameError."""
    if not part:
        return model.engine.resolve(f"layers.{layer}")
    head, dot, rest = part.partition(".")
    site = f"layers.{layer}.{part}"
    with suppress(UnknownNameError):
        return model.engine.resolve(site)
    with suppress(KeyError):
        path = model.engine.part(layer, _PARTS[head])
        return model.engine.resolve(f"{path}{dot}{rest}")
    return model.engine.resolve(site)  # raises, with advice


def vocabulary(model: Any) -> int:
    """How many logits a position has. A pass is built, not run."""
    return model.engine.run([[0]]).output.shape[-1]


class TracedLayers(NamedTuple):
    """What `traced_layers` reads; the arrays are lazy."""

    hidden: list[mx.array]  #: [batch, pos, d_model] behind each layer.
    logits: mx.array  #: What the model returned.
    lengths: list[int]  #: Real positions of each row.


def traced_layers(model: Any, inputs: Any, layers: Iterable[int]) -> TracedLayers:
    """The residual stream behind each layer. The trace ends with this
    function, so that evaluating the result keeps nothing else of the pass in
    memory. Raises UsageError where a layer does not return [batch, pos,
    d_model]."""
    with model.trace(inputs) as trace:
        hidden = [trace.value(layer_site(model, layer)) for layer in layers]
        for layer, value in zip(layers, hidden):
            if value.ndim != 3:
                raise UsageError(
                    f"the output of layer {layer} has shape "
                    f"{tuple(value.shape)}; here [batch, pos, d_model] is read"
                )
        return TracedLayers(hidden, trace.output, trace.lengths)
