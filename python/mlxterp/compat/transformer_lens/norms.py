"""What a norm does to a component of the stream: whether it takes its mean away,
and what it divides by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ...errors import UnknownNameError
from .weights import norm_gain

# What wrapped models call them; the first that is there counts.
_CALLED = {
    "ln1": "input_layernorm ln_1 ln1 attention_norm norm1 self_attn_layer_norm norm",
    "ln2": "pre_feedforward_layernorm post_attention_layernorm ln_2 ln2 ffn_norm norm2 "
    "final_layer_norm",
}


@dataclass(frozen=True)
class Norm:
    """Of kind LayerNorm where it centres, else RMSNorm."""

    centres: bool
    eps: float

    def scale(self, x: mx.array) -> mx.array:
        """What [..., d_model] is divided by, [..., 1]."""
        x = x.astype(mx.float32)
        if self.centres:
            x = x - x.mean(axis=-1, keepdims=True)
        return mx.sqrt(mx.square(x).mean(axis=-1, keepdims=True) + self.eps)


def norm_of(model: Any, name: str) -> Norm:
    """The norm of that name: "ln_final", "blocks.3.ln1". Raises
    UnknownNameError."""
    if not isinstance(model.model, nn.Module):
        config = model.engine.config
        return Norm(config["norm"] == "LN", config["norm_eps"])
    module = norm_module(model, name)
    eps = getattr(module, "eps", None) or getattr(module, "variance_epsilon", 1e-5)
    return Norm(isinstance(module, nn.LayerNorm), float(eps))


def norm_module(model: Any, name: str) -> Any:
    """The module of that name, which can be called."""
    if name == "ln_final":
        module = model._module_resolver.get_final_norm()
        if module is None:
            raise UnknownNameError("the final norm was not found: give norm_path=")
        return module
    _, layer, part = name.split(".")
    if not isinstance(model.model, nn.Module):
        return getattr(model.model.layers[int(layer)], part)
    held = model.layers[int(layer)]._module
    for called in _CALLED.get(part, "").split():
        if isinstance(held.get(called), nn.Module):
            return held[called]
    raise UnknownNameError(f"'{name}' was not found in {type(held).__name__}")


def norm_gain_of(model: Any, name: str) -> tuple[mx.array, mx.array]:
    """The gain and bias of that norm [d_model]."""
    return norm_gain(norm_module(model, name), model.weight("W_E", tokens=[0]).shape[-1])
