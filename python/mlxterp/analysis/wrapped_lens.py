"""The logit lens of a wrapped model: what it says of each layer's residual
stream is read by itself, in a pass whose last layer returns that stream. So its
norm, its projection and whatever it does to the logits need not be found, and
no layer of that pass is computed."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from .. import _core
from ..core.inputs import to_rows
from ..errors import OutOfRangeError, UsageError
from ._native import several
from .layer_sites import absolute
from .unembed import top_of


def wrapped_lens(
    model: Any,
    prompt: Any,
    layers=None,
    positions=None,
    embed: bool = False,
    site: str = "resid_post",
    tuned=None,
    top_k: int = 5,
    track: int | str | None = None,
    interventions: dict | None = None,
) -> _core.Lens:
    """`lens()` with its arguments. Evaluates, a layer at a time."""
    rows = to_rows(prompt, model.tokenizer)
    ids = rows.tolist() if isinstance(rows, mx.array) else rows
    if len(ids) != 1:
        raise UsageError(f"a lens reads one prompt, not {len(ids)}")
    count, width = len(model.layers), len(ids[0])
    if not count or top_k < 1:
        raise UsageError(f"a lens needs layers, and top_k of 1 at least, not {top_k}")
    chosen = {_index(i, count, "layer") for i in several(layers) or range(count)}
    at = {absolute(i, width, "the prompt") for i in several(positions) or range(width)}
    chosen, at = sorted(chosen), sorted(at)
    sites = [model.engine.resolve(f"layers.{i}.{site}") for i in chosen]
    if embed:
        chosen = [None, *chosen]
        sites = [model.engine.resolve("layers.0.resid_pre"), *sites]
    with model.trace(ids, interventions) as trace:
        streams = [trace.value(it) for it in sites]
    last = model.engine.resolve(f"layers.{count - 1}.resid_post")
    cells = _Cells(top_k, _token(model, track) if isinstance(track, str) else track)
    for layer, stream in zip(chosen, streams):
        # The last layer is the model itself.
        if tuned is not None and layer is not None and layer < count - 1:
            stream = tuned(stream, layer).astype(stream.dtype)
        with model.trace(ids, {last: lambda x, stream=stream: stream}) as trace:
            logits = trace.output
        cells.add(logits[0, mx.array(at)].astype(mx.float32))
    lens = _core.Lens.__new__(_core.Lens)
    state = (ids[0], count, site, tuned is not None, chosen, sites, at, cells.k)
    lens.__setstate__((*state, *cells.lists()))
    return lens


class _Cells:
    """What is kept of the logits of each row of a lens."""

    def __init__(self, top_k: int, track: int | None):
        self.k, self.track = top_k, track
        self._ids, self._logits, self._shares = [], [], []
        self._tracked, self._tracked_shares, self._ranks = [], [], []

    def add(self, logits: mx.array) -> None:
        """[pos, vocab]; a position whose logits are not finite has no winner."""
        vocab = logits.shape[-1]
        self.k = min(self.k, vocab)
        finite = mx.isfinite(logits).all(-1, keepdims=True)
        ids, top = top_of(logits, self.k)
        shares = mx.softmax(logits, axis=-1, precise=True)
        share = mx.take_along_axis(shares, ids, axis=-1)
        ids = mx.where(finite, ids.astype(mx.int32), -1)
        mx.eval(ids, top, share)
        self._ids += ids.flatten().tolist()
        self._logits += top.flatten().tolist()
        self._shares += share.flatten().tolist()
        if self.track is not None:
            own = logits[:, _index(self.track, vocab, "token") : self.track + 1]
            self._tracked += own.flatten().tolist()
            self._tracked_shares += shares[:, self.track].tolist()
            self._ranks += (logits > own).sum(-1).tolist()

    def lists(self) -> tuple:
        tracked = self._tracked, self._tracked_shares, self._ranks
        return self._ids, self._logits, self._shares, self.track, *tracked


def _token(model: Any, text: str) -> int:
    """The one token that a text is."""
    if model.tokenizer is None:
        raise UsageError(f"track={text!r} needs a tokenizer, or give a token id")
    try:
        ids = model.tokenizer.encode(text, add_special_tokens=False)
    except TypeError:  # one that adds none
        ids = model.tokenizer.encode(text)
    if len(ids) != 1:
        raise UsageError(f"{text!r} is not one token but {len(ids)}")
    return int(ids[0])


def _index(i: int, count: int, what: str) -> int:
    if not -count <= i < count:
        raise OutOfRangeError(f"{what} {i} is out of range: there are {count}")
    return i % count
