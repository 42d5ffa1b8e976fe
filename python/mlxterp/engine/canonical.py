"""The sites that mean the same in every model, by the names that C++ gives
them: `embed`, `layers.3.resid_pre`, `layers.3.attn.pattern`, `layers.3.mlp.post`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from ..errors import UnknownNameError
from .base import LAYOUTS

# What families call the parts of an MLP; the first that is there counts. Only
# a gated one has the linear part, which some others call their first.
_GATE = "gate_proj.output"
MLP_PARTS = {
    "pre": (_GATE, "c_fc.output", "fc1.output", "up_proj.output", "dense_h_to_4h.output"),
    "pre_linear": ("up_proj.output",),
    "post": ("down_proj.input", "c_proj.input", "fc2.input", "dense_4h_to_h.input"),
}


def canonical_sites(model: Any) -> dict[str, str]:
    """Names, in the order of the pass, and the engine's own for those sites."""
    embedding = model._module_resolver.get_embedding_path() or "embed"
    asked = [("embed", [f"{embedding}.output"])]
    for layer in range(len(model.layers)):
        asked += _of_layer(model.engine, f"layers.{layer}.", layer)
    found = {name: _first(model.engine, meant) for name, meant in asked}
    return {name: site for name, site in found.items() if site is not None}


def _of_layer(engine: Any, here: str, layer: int) -> Iterator[tuple[str, list[str]]]:
    yield f"{here}resid_pre", [f"{here}resid_pre"]
    with suppress(UnknownNameError):
        attention = engine.part(layer, "attn_out")
        for tail in LAYOUTS:
            yield f"{here}attn.{tail}", [f"{attention}.{tail}"]
    yield f"{here}attn_out", [f"{here}attn_out"]
    yield f"{here}resid_mid", [f"{here}resid_mid"]
    with suppress(UnknownNameError):
        mlp = engine.part(layer, "mlp_out")
        gated = _first(engine, [f"{mlp}.{_GATE}"])
        for name, tails in MLP_PARTS.items():
            if gated or name != "pre_linear":
                yield f"{here}mlp.{name}", [f"{mlp}.{tail}" for tail in tails]
    yield f"{here}mlp_out", [f"{here}mlp_out"]
    yield f"{here}resid_post", [f"{here}resid_post"]


def _first(engine: Any, names: list[str]) -> str | None:
    """The site that the first of these names means, if any does."""
    for name in names:
        with suppress(UnknownNameError):
            return engine.resolve(name)
    return None


def mlp_site(part: str, gated: bool) -> str | None:
    """What a value inside an MLP is called, if it has such a name."""
    found = [name for name, parts in MLP_PARTS.items() if part in parts]
    return found[-1 if gated else 0] if found else None
