"""What attention heads do: where they look, what their weights copy."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from . import _core
from ._native import inputs, native, told
from .sweeps import _one


def repeated_tokens(
    model, period: int = 50, repeats: int = 2, sequences: int = 4, seed: int = 42
) -> list[list[int]]:
    """Random tokens, again and again (Olsson et al., 2022): what comes next
    can be known from the context alone. The same seed gives the same tokens on
    every machine."""
    return _core.repeated_tokens(
        native(model, "repeated_tokens()"), period, repeats, sequences, seed
    )


def head_scores(
    model,
    prompts=None,
    measure: str = "mean",
    *,
    exclude_first: bool = False,
    exclude_current: bool = False,
    progress=None,
) -> dict[str, mx.array]:
    """How much each head attends where its kind says: {"induction",
    "previous_token", "duplicate_token", "first_token", "current_token"}, each
    [layer, head]. Without prompts, on repeated random tokens. `measure`:
    "mean" over destinations, "mul" or "abs" as TransformerLens' detect_head."""
    inner = native(model, "head_scores()")
    found = _core.head_scores(
        inner,
        repeated_tokens(inner) if prompts is None else inputs(prompts),
        _one(_core.HeadMeasure, measure, "measure"),
        exclude_first,
        exclude_current,
        told(progress),
    )
    return {kind: mx.array(grid, mx.float32) for kind, grid in found}


def head_circuits(model, progress=None) -> dict[str, mx.array]:
    """What a head's weights alone say (Elhage et al., 2021): "copying" of the
    OV circuit and "matching" of the QK circuit, from -1 to 1, [layer, head]."""
    copying, matching = _core.head_circuits(
        native(model, "head_circuits()"), told(progress)
    )
    return {
        "copying": mx.array(copying, mx.float32),
        "matching": mx.array(matching, mx.float32),
    }


@dataclass
class Trial:
    """Some heads as (layer, head), the loss of the repeated tokens without
    them in nats, and the part of induction's gain that is gone: 0 none, 1 all
    of it."""

    heads: list[tuple[int, int]]
    loss: float
    removed: float


@dataclass
class InductionAblation:
    """Mean loss of the first period's tokens and of the repeated ones, in nats;
    without the best induction heads, and without random others of the same
    layers."""

    first: float
    repeated: float
    best: Trial
    random: list[Trial]


def induction_ablation(
    model,
    heads: int = 5,
    value: str = "zero",
    draws: int = 5,
    *,
    period: int = 50,
    repeats: int = 2,
    sequences: int = 4,
    seed: int = 42,
    progress=None,
) -> InductionAblation:
    """Whether induction heads are what makes repeated tokens predictable
    (Olsson et al., 2022): the best `heads` are chosen on some sequences of
    repeated random tokens and ablated on others, to "zero" or to their "mean";
    `draws` times as many random heads of the same layers likewise."""
    first, repeated, best, random = _core.induction_ablation(
        native(model, "induction_ablation()"),
        heads,
        _one(_core.HeadValue, value, "value"),
        draws,
        period,
        repeats,
        sequences,
        seed,
        told(progress),
    )
    return InductionAblation(
        first, repeated, Trial(*best), [Trial(*it) for it in random]
    )
