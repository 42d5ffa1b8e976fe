"""What an engine runs, as the analyses in C++ see it: a model that has the sites
of every layer under their own names, and Python's tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from .. import _core
from ..engine.base import layout_of
from ..engine.canonical import canonical_sites
from ..errors import UnknownNameError
from .layer_sites import layer_site

#: The model's own, which it has there without being told.
_ROOT = "input", "output"


def engine_model(model: Any, asked: Sequence[str] = ()) -> _core.Model:
    """The C++ model of an InterpretableModel. `asked`: further sites, of each layer
    that has it by any of its names behind `layers.N.`, or by whole names and
    patterns."""
    decode = getattr(model.tokenizer, "decode", None)
    return _of_engine(model, engine_sites(model, asked), model.standing, decode)


def generating_model(
    model: Any, asked: Sequence[str]
) -> tuple[_core.Model, dict[str, str]]:
    """The same for text that is generated, with what each of the engine's sites in
    `asked` is called there. Standing edits act at its steps, too."""
    asked = [*asked, *(site for site, _ in model.standing)]
    # Seeded noise depends on the name: it is what a trace tells.
    told = getattr(model.engine, "told", str)
    names = {own: told(own) for own in asked if own not in _ROOT}
    names |= {site: site for site in _ROOT}
    names |= {own: name for name, own in canonical_sites(model).items()}
    sites = {name: own for own, name in names.items() if own not in _ROOT}
    inner = _of_engine(model, sites, (), partial(_plain_text, model.tokenizer))
    standing = [(names[site], fn) for site, fn in model.standing]
    return inner.edited(standing) if standing else inner, names


def end_ids(tokenizer: Any) -> list[int]:
    """The ids that end a text, by what a tokenizer of Python's calls them."""
    for name in ("eos_token_ids", "eos_token_id"):
        ids = getattr(tokenizer, name, None)
        if ids is not None:
            return [ids] if isinstance(ids, int) else sorted(ids)
    return []


def engine_sites(model: Any, asked: Sequence[str] = ()) -> dict[str, str]:
    """Names of sites there, and the engine's own for them."""
    engine = model.engine
    sites = canonical_sites(model)
    for site in asked:
        for layer in range(len(model.layers)):
            known = [f"layers.{layer}.{part}{site}" for part in ("", "attn.", "mlp.")]
            if not sites.keys() & set(known):
                with suppress(UnknownNameError):
                    sites[known[0]] = layer_site(model, layer, site)
        with suppress(UnknownNameError):
            found = () if _core.matching(site, list(sites)) else engine.match(site)
            own_names = {own.removeprefix("model."): own for own in found}
            sites |= {name: own for name, own in own_names.items() if name not in _ROOT}
    return sites


def _of_engine(
    model: Any,
    sites: dict[str, str],
    standing: Sequence[tuple[str, Callable]],
    decode: Callable[[list[int]], str] | None,
) -> _core.Model:
    engine, tokenizer = model.engine, model.tokenizer
    return _core.Model.of_engine(
        lambda ids, edits: engine.run(ids, [*standing, *edits]),
        [(name, own, layout_of(own)) for name, own in sites.items()],
        type(model.model).__name__,
        None if tokenizer is None else lambda text: _plain_ids(tokenizer, text),
        None if tokenizer is None else decode,
        model.vocab_size or 0,
    )


def _plain_text(tokenizer: Any, ids: list[int]) -> str:
    """What ids say, without control tokens."""
    try:
        return tokenizer.decode(ids, skip_special_tokens=True)
    except TypeError:  # one that knows none
        return tokenizer.decode(ids)


def _plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Of a text as it stands, with nothing added."""
    try:
        return list(tokenizer.encode(text, add_special_tokens=False))
    except TypeError:  # one that adds nothing
        return list(tokenizer.encode(text))
