"""What attention heads do: what they attend to, what their weights copy."""

from __future__ import annotations

import mlx.core as mx

from .. import _core
from .._core import InductionAblation, Trial  # noqa: F401
from ._native import Bar, asked, by_passes, inputs, native


def repeated_tokens(
    model, period: int = 50, repeats: int = 2, sequences: int = 4, seed: int = 42
) -> list[list[int]]:
    """Random tokens, repeated (Olsson et al., 2022): what comes next can be
    predicted from the context alone. The same seed gives the same tokens on
    every machine."""
    return _core.repeated_tokens(
        by_passes(model, "repeated_tokens()"),
        _core.RepeatedTokens(
            period=period, repeats=repeats, sequences=sequences, seed=seed
        ),
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
    given = locals()
    del given["prompts"]
    inner, chosen = asked("head_scores()", _core.HeadOptions, given)
    rows = repeated_tokens(inner) if prompts is None else inputs(model, prompts)
    found = _core.head_scores(inner, rows, chosen)
    return {kind: mx.array(grid, mx.float32) for kind, grid in found}


def head_circuits(model, progress=None) -> dict[str, mx.array]:
    """Scores of a head's weights alone (Elhage et al., 2021), [layer, head], from
    -1 to 1: "copying" of the OV circuit; "matching", the QK same-token score."""
    copying, matching = _core.head_circuits(
        native(model, "head_circuits()"), progress or Bar()
    )
    return {
        "copying": mx.array(copying, mx.float32),
        "matching": mx.array(matching, mx.float32),
    }


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
    `draws` times as many random heads of the same layers likewise.

    Returns `first` and `repeated`, the mean loss of the first period's tokens
    and of the repeated ones, in nats, and `best` and `random`, Trials: `heads`
    as (layer, head), the `loss` of the repeated tokens without them, and the
    part of induction's gain that is `removed`: 0 none, 1 all of it."""
    given = locals()
    tokens = ("period", "repeats", "sequences", "seed")
    given["tokens"] = _core.RepeatedTokens(**{it: given.pop(it) for it in tokens})
    return _core.induction_ablation(
        *asked("induction_ablation()", _core.AblationOptions, given)
    )
