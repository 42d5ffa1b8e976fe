"""What attention heads do: where they look, what their weights copy."""

from __future__ import annotations

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
    copying, matching = _core.head_circuits(native(model, "head_circuits()"), told(progress))
    return {
        "copying": mx.array(copying, mx.float32),
        "matching": mx.array(matching, mx.float32),
    }
