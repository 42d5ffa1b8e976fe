"""The features of sparse autoencoders and transcoders: as sites of a model, and what
they say of a prompt and a text."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .. import _core
from ._native import asked, inputs, native
from .saes import SAE


def attach_sae(
    model,
    sae: SAE,
    mode: str = "read",
    name: str = "sae",
    site: str = "",
    reads: str = "",
    check_on=None,
):
    """See `InterpretableModel.attach_sae`."""
    native(model, "attach_sae()")  # refuses others
    rows = None if check_on is None else inputs(model, check_on)
    engine = model.engine.attach_sae(
        sae._native, mode, name, site, reads, rows, model.standing
    )
    return model._handle(engine=engine, standing=[])


def features(
    model,
    prompt,
    sae: SAE,
    top: int = 5,
    *,
    features: int | Sequence[int] | None = None,
    tokens: int = 5,
    site: str = "",
    reads: str = "",
    name: str = "sae",
) -> _core.FeatureReading:
    """See `InterpretableModel.features`."""
    given = {"top": top, "features": features, "tokens": tokens}
    given |= {"site": site, "reads": reads, "name": name}
    inner = native(model, "features()")
    options = _core.FeatureOptions(
        **{key: value for key, value in given.items() if value is not None}
    )
    return _core.read_features(inner, sae._native, inputs(model, prompt), options)


def feature_contexts(
    model,
    sae: SAE,
    text: str | os.PathLike[str],
    features: int | Sequence[int],
    *,
    top: int = 5,
    before: int = 10,
    after: int = 4,
    length: int = 128,
    batch_size: int = 8,
    tokens: int = 0,
    site: str = "",
    reads: str = "",
    progress=None,
) -> _core.FeatureText:
    """Where in a text (a file or a folder of .txt and .jsonl files) features are
    most active, in one streaming pass with bounded memory: `features`, each with
    `feature`, `active` (positions where it is not 0) and `top`: `value`, `ids`
    and `at`, the token among them; `tokens` read and `windows`. The best position
    of each window of `length` tokens counts, and not its first. Raises
    UsageError, OutOfRangeError, BadDataError, IoError."""
    given = dict(locals())
    sae, text = given.pop("sae"), os.fspath(given.pop("text"))
    inner, options = asked("feature_contexts()", _core.FeatureContextOptions, given)
    return _core.feature_contexts(inner, sae._native, text, options)
