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

from .errors import OutOfRangeError, UnknownNameError

_RESIDUAL = {
    "hook_resid_pre": "resid_pre",
    "hook_attn_out": "attn_out",
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
    "mlp.hook_pre": (_GATE, "c_fc.output", "fc1.output", "up_proj.output"),
    "mlp.hook_pre_linear": ("up_proj.output",),
    "mlp.hook_post": ("down_proj.input", "c_proj.input", "fc2.input"),
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
    near = difflib.get_close_matches(name, points, n=3, cutoff=0.5)
    raise UnknownNameError(
        f"'{name}' is no hook point of this model; "
        + (
            f"near: {', '.join(near)}"
            if near
            else f"there are {', '.join(points)}"
        )
    )


def _points(model: Any, layers: Any = None) -> Iterator[tuple[str, str]]:
    """Hook points and their sites, of some layers or of all."""
    path = model._module_resolver.get_embedding_path()
    if path is not None:
        yield from _first(model, "hook_embed", path, ("output",))
    for layer in range(len(model.layers)) if layers is None else layers:
        yield from _block(model, layer)


def _block(model: Any, layer: int) -> Iterator[tuple[str, str]]:
    here, found = f"blocks.{layer}.", {}
    for hook, alias in _RESIDUAL.items():
        with suppress(UnknownNameError):
            found[hook] = model.engine.resolve(f"layers.{layer}.{alias}")
    if "hook_resid_pre" in found:
        yield here + "hook_resid_pre", found["hook_resid_pre"]
    if "hook_attn_out" in found:
        attention = found["hook_attn_out"].removesuffix(".output")
        for hook, tail in _ATTENTION.items():
            yield from _first(model, here + hook, attention, (tail,))
        yield here + "hook_attn_out", found["hook_attn_out"]
    yield from _middle(model, here, found.get("hook_resid_post", ""))
    if "hook_mlp_out" in found:
        mlp = found["hook_mlp_out"].removesuffix(".output")
        gated = bool(list(_first(model, "", mlp, (_GATE,))))
        for hook, tails in _MLP.items():
            if hook == "mlp.hook_pre_linear" and not gated:
                continue
            yield from _first(model, here + hook, mlp, tails)
        yield here + "hook_mlp_out", found["hook_mlp_out"]
    if "hook_resid_post" in found:
        yield here + "hook_resid_post", found["hook_resid_post"]


def _middle(
    model: Any, here: str, layer_site: str
) -> Iterator[tuple[str, str]]:
    """The residual stream between attention and MLP: what the MLP's norm
    reads. Where a layer also normalises the outputs, only a norm that says it
    comes before the MLP is meant."""
    layer = layer_site.removesuffix(".output")
    norms = ["pre_feedforward_layernorm", "ln_2"]
    if not list(_first(model, "", layer, ("post_feedforward_layernorm",))):
        norms.append("post_attention_layernorm")
    # Attention and MLP side by side read the same norm; there is no middle.
    yield from _first(
        model,
        here + "hook_resid_mid",
        layer,
        [f"{norm}.input" for norm in norms],
    )


def _first(
    model: Any, hook: str, path: str, tails: Any
) -> Iterator[tuple[str, str]]:
    """The hook at the first of `tails` there is at `path`, if any."""
    for tail in tails:
        with suppress(UnknownNameError):
            yield hook, model.engine.resolve(f"{path}.{tail}")
            return
