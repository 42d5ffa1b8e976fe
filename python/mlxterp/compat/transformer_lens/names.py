"""TransformerLens' names of hook points, and the sites they mean.

    blocks.3.hook_resid_post     layers.3.resid_post
    blocks.3.attn.hook_pattern   the pattern of layer 3's attention

Nanda and Bloom, TransformerLens, 2022.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ...analysis.layer_sites import part_path
from ...errors import OutOfRangeError, UnknownNameError

_RESIDUAL = {
    "hook_resid_pre": "resid_pre",
    "hook_attn_out": "attn_out",
    "hook_resid_mid": "resid_mid",
    "hook_mlp_out": "mlp_out",
    "hook_resid_post": "resid_post",
}
_ATTENTION = {
    "attn.hook_q": "q",
    "attn.hook_k": "k",
    "attn.hook_v": "v",
    "attn.hook_rot_q": "rot_q",
    "attn.hook_rot_k": "rot_k",
    "attn.hook_attn_scores": "scores",
    "attn.hook_pattern": "pattern",
    "attn.hook_z": "z",
}
# What families call the parts of an MLP; the first that is there counts. Only
# a gated one has the linear part, which some others call their first.
_GATE = "gate_proj.output"
_MLP = {
    "mlp.hook_pre": (
        _GATE,
        "c_fc.output",
        "fc1.output",
        "up_proj.output",
        "dense_h_to_4h.output",
    ),
    "mlp.hook_pre_linear": ("up_proj.output",),
    "mlp.hook_post": (
        "down_proj.input",
        "c_proj.input",
        "fc2.input",
        "dense_4h_to_h.input",
    ),
}

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")


def hook_names(model: Any) -> list[str]:
    """Every hook point of a model, in the order of the pass."""
    return [name for name, _ in _points(model)]


def hook_site(model: Any, name: str) -> str:
    """The site a hook point, or any other name of a site, means. Raises
    OutOfRangeError for a layer, UnknownNameError for a name that is nothing."""
    block = _BLOCK.fullmatch(name)
    if block is None and not name.startswith("hook_"):
        return model.engine.resolve(name)
    if block is not None and int(block[1]) >= len(model.layers):
        raise OutOfRangeError(
            f"'{name}' is out of range: the model has {len(model.layers)} "
            f"layers, 0 to {len(model.layers) - 1}"
        )
    layers = range(0) if block is None else [int(block[1])]
    points = dict(_points(model, layers))
    if name in points:
        return points[name]
    with suppress(UnknownNameError):  # an engine may know more of them
        return model.engine.resolve(name)
    near = difflib.get_close_matches(name, points, n=3, cutoff=0.5)
    raise UnknownNameError(
        f"'{name}' is not a hook point of this model; "
        + (f"near: {', '.join(near)}" if near else f"all: {', '.join(points)}")
    )


def _points(model: Any, layers: Any = None) -> Iterator[tuple[str, str]]:
    """Hook points and their sites, of some layers or of all."""
    path = model._module_resolver.get_embedding_path() or "embed"
    yield from _first(model, "hook_embed", [f"{path}.output"])
    for layer in range(len(model.layers)) if layers is None else layers:
        yield from _block(model, layer)


def _block(model: Any, layer: int) -> Iterator[tuple[str, str]]:
    def residual(hook: str) -> Iterator[tuple[str, str]]:
        return _first(model, here + hook, [f"layers.{layer}.{_RESIDUAL[hook]}"])

    here = f"blocks.{layer}."
    yield from residual("hook_resid_pre")
    with suppress(UnknownNameError):
        attention = part_path(model, layer, "attn_out")
        for hook, tail in _ATTENTION.items():
            yield from _first(model, here + hook, [f"{attention}.{tail}"])
    yield from residual("hook_attn_out")
    yield from residual("hook_resid_mid")
    with suppress(UnknownNameError):
        mlp = part_path(model, layer, "mlp_out")
        gated = _is(model, f"{mlp}.{_GATE}")
        for hook, tails in _MLP.items():
            if gated or hook != "mlp.hook_pre_linear":
                sites = [f"{mlp}.{tail}" for tail in tails]
                yield from _first(model, here + hook, sites)
    yield from residual("hook_mlp_out")
    yield from residual("hook_resid_post")


def _is(model: Any, name: str) -> bool:
    return bool(list(_first(model, name, [name])))


def _first(model: Any, hook: str, names: list[str]) -> Iterator[tuple[str, str]]:
    """The hook at the first of `names` that means a site, if any does."""
    for name in names:
        try:
            site = model.engine.resolve(name)
        except UnknownNameError:
            continue
        yield hook, site
        return
