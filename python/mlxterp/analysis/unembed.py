"""From hidden states to logits and to the tokens they predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import BadDataError, UnknownNameError, UsageError

Projection = Callable[[mx.array], mx.array]

NO_WINNER = (
    "a logit is NaN, so no token is the most likely; look for the first layer whose "
    "output has a NaN"
)
# Whose logits are held at a time.
_ROWS = 128


def tied_projection(embedding: Any) -> Projection:
    """The projection by an embedding's own rows, quantised ones included.
    Raises UsageError for a module without such rows."""
    if hasattr(embedding, "as_linear"):
        return embedding.as_linear
    weight = getattr(embedding, "weight", None)
    if weight is None or weight.ndim != 2 or hasattr(embedding, "scales"):
        raise UsageError(
            f"{type(embedding).__name__} cannot serve as the output projection:"
            " it has neither as_linear nor a weight [vocab, d_model]; pass "
            "lm_head"
        )
    return lambda hidden: hidden @ weight.T


def output_projection(
    model: Any, embedding_layer: Any = None, lm_head: Any = None
) -> Projection:
    """`lm_head`, else the rows of `embedding_layer`, else what the model ends
    with. Raises UnknownNameError where it has neither head nor embedding."""
    if lm_head is not None:
        return lm_head
    if embedding_layer is not None:
        return tied_projection(embedding_layer)
    resolver = model._module_resolver
    module, _, tied = resolver.get_output_projection()
    if module is None:
        raise UnknownNameError(
            "the model's output projection was not found; pass lm_head_path or "
            "embedding_path to InterpretableModel. Looked for "
            f"{', '.join([*resolver.LM_HEAD_PATHS, *resolver.EMBEDDING_PATHS])}"
        )
    own = tied_projection(module) if tied else module
    return _behind_norm(model, own) if resolver.is_usual() else own


def _behind_norm(model: Any, own: Projection) -> Projection:
    """What the model itself makes of what its last norm returned: the projection
    with the factor and the soft cap behind it. `own` serves where a pass cannot
    show that."""
    norm = model._module_resolver.get_final_norm_path()
    if norm is None or not isinstance(model.model, nn.Module):
        return own

    def project(rows: mx.array) -> mx.array:
        given = rows[None]
        behind = [(f"{norm}.output", lambda x: given.astype(x.dtype))]
        return model.engine.run([[0] * len(rows)], behind).output[0]

    return project


def top_of(logits: mx.array, k: int) -> tuple[mx.array, mx.array]:
    """Ids and scores of the k highest of [row, vocab], highest first."""
    ids = mx.argpartition(-logits, kth=k - 1, axis=-1)[:, :k]
    scores = mx.take_along_axis(logits, ids, axis=-1)
    order = mx.argsort(-scores, axis=-1)
    return tuple(mx.take_along_axis(it, order, axis=-1) for it in (ids, scores))


def top_tokens(
    hidden: mx.array, project: Projection, top_k: int
) -> list[list[tuple[int, float]]]:
    """The tokens [row, d_model] predicts: for each row the `top_k` highest
    (id, logit), highest first. The logits are made and searched slice by slice
    on the device, and only the winners leave it. Evaluates. Raises UsageError
    for a negative `top_k`, BadDataError where a logit is NaN."""
    if top_k < 0:
        raise UsageError(f"top_k must not be negative, but is {top_k}")
    found: list[list[tuple[int, float]]] = []
    for start in range(0, hidden.shape[0], _ROWS):
        logits = project(hidden[start : start + _ROWS])
        ids, scores = top_of(logits, max(1, min(top_k, logits.shape[-1])))
        ids, scores = ids[:, :top_k], scores[:, :top_k].astype(mx.float32)
        if mx.any(mx.isnan(logits)).item():
            raise BadDataError(NO_WINNER)
        found += [list(zip(*row)) for row in zip(ids.tolist(), scores.tolist())]
    return found
