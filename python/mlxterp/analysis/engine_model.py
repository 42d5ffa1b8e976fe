"""What an engine runs, as the analyses in C++ see it: a model that has the sites
of every layer under their own names, and Python's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from .. import _core
from ..engine.base import layout_of
from ..engine.canonical import canonical_sites
from ..errors import UnknownNameError
from .layer_sites import layer_site


def engine_model(model: Any, asked: Sequence[str] = ()) -> _core.Model:
    """The C++ model of an InterpretableModel. `asked`: further sites, of each layer
    that has it by any of its names behind `layers.N.`, or by whole names and
    patterns."""
    engine, tokenizer = model.engine, model.tokenizer
    sites = canonical_sites(model)
    for site in asked:
        for layer in range(len(model.layers)):
            known = [f"layers.{layer}.{part}{site}" for part in ("", "attn.", "mlp.")]
            if not sites.keys() & set(known):
                with suppress(UnknownNameError):
                    sites[known[0]] = layer_site(model, layer, site)
        with suppress(UnknownNameError):
            found = () if _core.matching(site, list(sites)) else engine.match(site)
            sites |= {own.removeprefix("model."): own for own in found}
    return _core.Model.of_engine(
        lambda ids, edits: engine.run(ids, [*model.standing, *edits]),
        [(name, own, layout_of(own)) for name, own in sites.items()],
        type(model.model).__name__,
        None if tokenizer is None else lambda text: _plain_ids(tokenizer, text),
        None if tokenizer is None else tokenizer.decode,
        model.vocab_size or 0,
    )


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Of a text as it stands, with nothing added."""
    try:
        return list(tokenizer.encode(text, add_special_tokens=False))
    except TypeError:  # one that adds nothing
        return list(tokenizer.encode(text))
