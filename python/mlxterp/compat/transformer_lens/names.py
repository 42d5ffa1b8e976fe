"""TransformerLens' names of hook points, and the sites they mean.

    blocks.3.hook_resid_post     layers.3.resid_post
    blocks.3.attn.hook_pattern   the pattern of layer 3's attention

Nanda and Bloom, TransformerLens, 2022.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from ... import _core
from ...engine.base import layout_of
from ...engine.canonical import canonical_sites
from ...errors import OutOfRangeError, UnknownNameError, UsageError


_SPLIT = (
    "heads do not read copies of their own. Read hook_resid_pre; change what one head "
    "reads by sweeps.path_patch(..., receivers=['L5H1.q'])"
)
_WRAPPED = "it is one where the checkpoint is loaded by its path. Of a wrapped module "
_NORM = _WRAPPED + "read the norm's input and output, layers.3.input_layernorm.input"
#: What to do without TransformerLens' hook points that are not there.
_INSTEAD = dict.fromkeys(
    ("hook_q_input", "hook_k_input", "hook_v_input", "hook_attn_in"), _SPLIT
) | {
    "hook_scale": _NORM,
    "hook_normalized": _NORM,
    "hook_result": _WRAPPED + "it is hook_z @ model.W_O[layer]; see stack_head_results",
    "hook_mlp_in": _WRAPPED + "read hook_resid_mid",
    "hook_pos_embed": "its positions are not learned, or not found",
}


# What of a layer comes one after the other; within each the order stays.
_STEPS = (
    "hook_resid_pre",
    "ln1.",
    *(f"attn.{it}" for it in ("hook_q", "hook_k", "hook_v", "q_norm", "k_norm")),
    "attn.",
    "ln1_post.",
    "hook_attn_out",
    "hook_resid_mid",
    "ln2.",
    "mlp.",
    "ln2_post.",
    "hook_mlp_out",
    "hook_resid_post",
)


def _step(name: str) -> tuple[int, int]:
    """Where in a pass a hook point is."""
    if not name.startswith("blocks."):
        return (10**9, 0) if name.startswith("ln_final") else (-1, 0)
    _, layer, inside = name.split(".", 2)
    fits = (i for i, it in enumerate(_STEPS) if inside == it or _within(inside, it))
    return int(layer), next(fits, len(_STEPS))


def _within(inside: str, step: str) -> bool:
    return inside.startswith(step if step.endswith(".") else f"{step}.")


def hook_sites(model: Any) -> dict[str, str]:
    """Every hook point of a model, in the order of the pass, and its site."""
    own = getattr(model.engine, "model", None)
    if isinstance(own, _core.Model):
        return dict(sorted(own.lens_names, key=lambda it: _step(it[0])))
    sites = canonical_sites(model)
    return {hook: sites[name] for hook, name in _lens_names(tuple(sites))}


@lru_cache(maxsize=16)
def _lens_names(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """What TransformerLens calls those that it has a name for, and they."""
    sites = [(name, name, layout_of(name)) for name in names]
    return _core.Model.of_engine(len, sites, "").lens_names


def hook_site(model: Any, name: str, hooks: Mapping[str, str] | None = None) -> str:
    """The site a hook point, or any other name of a site, means; `hooks`:
    `hook_sites` of the model. Raises OutOfRangeError for a layer,
    UnknownNameError for a name that is nothing."""
    block = re.match(r"blocks\.(\d+)\.", name)
    if block is None and not name.startswith("hook_"):
        return model.engine.resolve(name)
    if block is not None and int(block[1]) >= len(model.layers):
        raise OutOfRangeError(
            f"'{name}' is out of range: the model has {len(model.layers)} "
            f"layers, 0 to {len(model.layers) - 1}"
        )
    hooks = hook_sites(model) if hooks is None else hooks
    if name in hooks:
        return hooks[name]
    with suppress(UnknownNameError):  # an engine may know more of them
        return model.engine.resolve(name)
    tail = name.rpartition(".")[2]
    if tail == "hook_mlp_in":  # what the MLP's norm reads, and nothing else does
        with suppress(UnknownNameError):
            return model.engine.resolve(f"layers.{block[1]}.ln2.input")
    if tail in _INSTEAD:
        raise UsageError(f"'{name}' is no value of this model: {_INSTEAD[tail]}")
    near = difflib.get_close_matches(name, hooks, n=3, cutoff=0.5)
    raise UnknownNameError(
        f"'{name}' is no hook point of this model; "
        + (f"near: {', '.join(near)}" if near else f"all: {', '.join(hooks)}")
    )
