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
from ...errors import OutOfRangeError, UnknownNameError


def hook_sites(model: Any) -> dict[str, str]:
    """Every hook point of a model, in the order of the pass, and its site."""
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
    near = difflib.get_close_matches(name, hooks, n=3, cutoff=0.5)
    raise UnknownNameError(
        f"'{name}' is no hook point of this model; "
        + (f"near: {', '.join(near)}" if near else f"all: {', '.join(hooks)}")
    )
