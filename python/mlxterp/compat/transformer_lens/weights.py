"""Weights by TransformerLens' names: `model.W_Q[3, 5]`, `model.W_U[:, token]`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ... import _core
from ...errors import OutOfRangeError, UnknownNameError, UsageError
from .factored_matrix import FactoredMatrix

#: What the axes in front are; of the others none is read alone.
_AXES = dict.fromkeys(_core.weight_names, ("layer",))
_AXES |= {f"{it}_{x}": ("layer", "head") for it in "Wb" for x in "QKV"}
_AXES |= {"W_O": ("layer", "head"), "W_pos": (), "b_U": ("tokens",)}
_AXES |= {"W_E": ("tokens",), "W_U": (None, "tokens")}

# What modules are called that hold a weight, in wrapped models.
_CALLED = {
    "Q": "q_proj wq query",
    "K": "k_proj wk key",
    "V": "v_proj wv value",
    "O": "o_proj out_proj wo dense c_proj",
    "in": "up_proj c_fc fc1 dense_h_to_4h w3",
    "gate": "gate_proj w1",
    "out": "down_proj c_proj fc2 dense_4h_to_h w2",
}
_FUSED = ("c_attn", "qkv_proj")  # queries, keys and values, one after the other


class Weight(mx.array):
    """A weight, an mx.array. A layer, a head or tokens of it, as `[3, 5]`, are
    read by themselves; nothing else is computed."""

    def __init__(self, name: str, whole: mx.array, part: Callable[..., mx.array]):
        super().__init__(mx.zeros(whole.shape, whole.dtype))
        super().__setitem__(..., whole)
        self._axes, self._part = _AXES[name], part

    def __getitem__(self, key):
        items = list(key) if isinstance(key, tuple) else [key]
        chosen: dict[str, Any] = {}
        for axis in self._axes:
            if axis is None and items[:1] == [slice(None)]:
                del items[0]
            elif axis is not None and items and self._names(axis, items[0]):
                chosen[axis] = self._index(axis, items.pop(0))
            else:
                break
        if not chosen or (None in self._axes and "tokens" not in chosen):
            return super().__getitem__(key)
        one = isinstance(chosen.get("tokens"), int)
        if one:
            chosen["tokens"] = [chosen["tokens"]]
        part = self._part(**chosen)
        if None in self._axes:
            items = [slice(None), *([0] if one else [slice(None)]), *items]
        elif one:
            items = [0, *items]
        return part[tuple(items)] if items else part

    def __matmul__(self, other: mx.array) -> mx.array:
        # Which stays factored, if it is asked first.
        factored = isinstance(other, FactoredMatrix)
        return NotImplemented if factored else super().__matmul__(other)

    @staticmethod
    def _names(axis: str, item: Any) -> bool:
        if axis == "tokens" and isinstance(item, mx.array):
            return item.ndim == 1 and mx.issubdtype(item.dtype, mx.integer)
        if axis == "tokens" and isinstance(item, list):
            return all(isinstance(it, int) for it in item)
        return hasattr(item, "__index__") and not isinstance(item, (bool, mx.array))

    def _index(self, axis: str, item: Any) -> int | list[int]:
        n = self.shape[self._axes.index(axis)]
        if isinstance(item, (list, mx.array)):
            ids = item if isinstance(item, list) else item.tolist()
            return [self._index(axis, it) for it in ids]
        i = operator.index(item)
        if not -n <= i < n:
            raise OutOfRangeError(f"there are {n} of {axis}, no {i}")
        return i % n


class WeightMixin:
    """`W_Q`, `W_K`, `W_V`, `W_O`, `W_in`, `W_gate`, `W_out`, `W_E`, `W_pos`, `W_U`
    and `b_*` of an InterpretableModel, each an mx.array [layer, ...] that
    computes only what it is asked for; see `weight`."""

    def weight(
        self,
        name: str,
        layer: int | None = None,
        head: int | None = None,
        tokens: list[int] | None = None,
        folded: bool = False,
    ) -> mx.array:
        """A weight as x @ W + b has it, lazy: W_Q, W_K and W_V [layer, head,
        d_model, d_head], W_O [layer, head, d_head, d_model], W_in and W_gate
        [layer, d_model, d_mlp], W_out [layer, d_mlp, d_model], W_E [vocab,
        d_model], W_U [d_model, vocab] (Nanda and Bloom, TransformerLens, 2022).
        Grouped kv heads are repeated, so that every query head has its own. A
        bias that the model has not is zeros. In a gated MLP W_gate is what the
        activation sees, W_in the other factor.

        layer, head: one of them, without its axis. tokens: of W_E, W_U and b_U.
        folded: with the gain of the norm in front of it, and its bias in b_*.

        Of a wrapped model the parameters of its modules, where these are
        found by their usual names. Raises UnknownNameError, OutOfRangeError,
        UsageError.
        """
        if not isinstance(self.model, nn.Module):
            return self.engine.model.weight(name, layer, head, tokens, folded)
        return _wrapped(self, name, layer, head, tokens, folded)


def _of(name: str) -> property:
    def get(self: Any) -> Weight:
        of = partial(self.weight, name, **self._weights_are)
        try:
            return Weight(name, of(), of)
        except (UnknownNameError, UsageError) as error:
            if "one layer" not in str(error):
                raise
            how = f"model.weight('{name}', layer)"
            raise UsageError(f"{error}, as {how} does") from None

    return property(get, doc=f"{name}, see `weight`.")


for _name in _core.weight_names:
    setattr(WeightMixin, _name, _of(_name))
WeightMixin._weights_are = {}


def _wrapped(model, name, layer, head, tokens, folded) -> mx.array:
    if name not in _AXES:
        known = ", ".join(_AXES)
        raise UnknownNameError(f"no weight is called '{name}'; there are {known}")
    kind, what = name.split("_")
    if what in ("E", "U", "pos"):
        found = _of_ends(model, name, folded)
        if tokens is None:
            return found
        return found[:, mx.array(tokens)] if name == "W_U" else found[mx.array(tokens)]
    if folded:
        raise UsageError(
            f"{name} of a wrapped model has no norm folded in: load its checkpoint "
            "by path, or multiply by the norm's weight"
        )
    if layer is None:
        return mx.stack(
            [_of_layer(model, kind, what, i, head) for i in range(len(model.layers))]
        )
    return _of_layer(model, kind, what, layer, head)


def _of_layer(model, kind: str, what: str, layer: int, head: int | None) -> mx.array:
    name = f"{kind}_{what}"
    attends = what in "QKVO"
    path = model.engine.part(layer, "attn_out" if attends else "mlp_out")
    module = dict(model.named_modules())[path]
    weight, bias = _parameters(module, what, path, name)
    if what not in "QKVO" or (kind, what) == ("b", "O"):
        return weight.T if kind == "W" else bias
    queries, values = _heads(model, path)
    if what == "O":
        found = _core.heads_of_output(weight, queries)
    else:
        n = queries if what == "Q" else values
        keys = module.get("k_proj") if what == "Q" else None
        if keys and _matrix(keys, name)[0].shape[0] * queries != len(weight) * values:
            raise UnknownNameError(
                f"'{path}' ({type(module).__name__}) keeps a gate with its queries: "
                f"read model.{path}.q_proj.weight"
            )
        rows = weight if kind == "W" else bias
        found = _core.heads_of_projection(rows, n, queries // n)
    return found if head is None else found[head]


def _parameters(module, what: str, path: str, name: str) -> tuple[mx.array, mx.array]:
    """A projection's matrix [out, in] and its bias."""
    for called in _CALLED[what].split():
        if isinstance(module.get(called), nn.Module):
            return _matrix(module[called], name)
    for called in _FUSED if what in "QKV" else ():
        if isinstance(module.get(called), nn.Module):
            weight, bias = _matrix(module[called], name)
            sizes = _rows(module, weight.shape[0])
            cut = [sizes[0], sizes[0] + sizes[1]]
            i = "QKV".index(what)
            return mx.split(weight, cut)[i], mx.split(bias, cut)[i]
    has = ", ".join(key for key, it in module.items() if isinstance(it, nn.Module))
    raise UnknownNameError(
        f"'{path}' ({type(module).__name__}) has no module of its own for {name}; it "
        f"has {has or 'none'}: read model.{path}.parameters()"
    )


def _rows(module, rows: int) -> tuple[int, int]:
    """How many rows of a fused projection are queries' and keys'."""
    queries = getattr(module, "n_heads", None) or getattr(module, "n_head", 1)
    kv = getattr(module, "n_kv_heads", None) or queries
    one = rows // (queries + 2 * kv)
    return queries * one, kv * one


def _matrix(module: nn.Module, name: str) -> tuple[mx.array, mx.array]:
    weight = module.get("weight")
    if weight is None or weight.ndim != 2:
        kind = type(module).__name__
        raise UnknownNameError(f"{name} is no plain matrix here, but part of a {kind}")
    if "scales" in module:
        how = {it: getattr(module, it) for it in ("group_size", "bits")}
        how |= {"mode": module.mode} if hasattr(module, "mode") else {}
        weight = mx.dequantize(weight, module.scales, module.get("biases"), **how)
    bias = module.get("bias")
    return weight, mx.zeros(weight.shape[0], weight.dtype) if bias is None else bias


def _heads(model, path: str) -> tuple[int, int]:
    """Query heads and kv heads, as a pass of one token has them."""
    run = model.engine.run([[0]])
    return tuple(run.value(f"{path}.{site}").shape[2] for site in "qk")


def _of_ends(model, name: str, folded: bool) -> mx.array:
    found = model._module_resolver
    if name == "W_pos":
        called = "wpe embed_positions position_embeddings".split()
        for path, module in model.named_modules():
            if path.rpartition(".")[2] in called:
                return _matrix(module, name)[0]
        raise UnknownNameError("this model has no W_pos: no learned positions found")
    if name == "W_E":
        module = found.get_embedding_layer()
    else:
        module = found.get_lm_head()
    if module is None:
        raise UnknownNameError(
            f"{name} was not found: give embedding_path= or lm_head_path="
        )
    weight, bias = _matrix(module, name)
    if name == "W_E":
        return weight
    bias = bias if "bias" in module else mx.zeros(weight.shape[0], weight.dtype)
    if folded:
        gain, shift = norm_gain(found.get_final_norm(), weight.shape[1])
        bias, weight = bias + weight @ shift, weight * gain
    return weight.T if name == "W_U" else bias


def norm_gain(norm: Callable, width: int) -> tuple[mx.array, mx.array]:
    """A norm's gain and bias [d_model], as it applies them, whatever it keeps."""
    # Of rows that are their own normalisation, half +1 and half -1.
    signs = mx.where(mx.arange(width) % 2 == 0, 1.0, -1.0) * 1e3
    up, down = norm(signs[None])[0], norm(-signs[None])[0]
    return (up - down) / 2 * mx.sign(signs), (up + down) / 2
