"""TransformerLens' `detect_head`: how well each head's pattern fits an expected
one."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ...errors import UsageError

HEAD_NAMES = ("previous_token_head", "duplicate_token_head", "induction_head")


def get_supported_heads() -> None:
    """Prints the names that `detect_head` knows."""
    print(f"Supported heads: {HEAD_NAMES}")


def get_previous_token_head_detection_pattern(tokens: mx.array) -> mx.array:
    """1 where a destination's source is the token before it, [pos, pos]."""
    return mx.eye(tokens.shape[-1], k=-1)


def get_duplicate_token_head_detection_pattern(tokens: mx.array) -> mx.array:
    """1 where a source before the destination is the same token, [pos, pos]."""
    ids = tokens.reshape(-1)
    return mx.tril((ids[:, None] == ids[None]).astype(mx.float32), k=-1)


def get_induction_head_detection_pattern(tokens: mx.array) -> mx.array:
    """1 where a source is behind an earlier token that is the destination's,
    [pos, pos] (Olsson et al., "In-context Learning and Induction Heads", 2022)."""
    same = get_duplicate_token_head_detection_pattern(tokens)
    shifted = mx.concatenate([mx.zeros((same.shape[0], 1)), same[:, :-1]], axis=1)
    return mx.tril(shifted)


_PATTERNS = dict(
    zip(
        HEAD_NAMES,
        (
            get_previous_token_head_detection_pattern,
            get_duplicate_token_head_detection_pattern,
            get_induction_head_detection_pattern,
        ),
    )
)


def detect_head(
    model: Any,
    seq: str | list[str],
    detection_pattern: str | mx.array,
    heads: list[tuple[int, int]] | dict[int, list[int]] | None = None,
    cache: Any = None,
    *,
    exclude_bos: bool = False,
    exclude_current_token: bool = False,
    error_measure: str = "mul",
) -> mx.array:
    """How well every head fits a pattern, [layer, head].

    seq: a text, or several whose scores are averaged.
    detection_pattern: one of `HEAD_NAMES`, or [pos, pos], lower triangular.
    heads: those to score, (layer, head) or {layer: heads}; others get -1.
    cache: with the patterns of `seq`, without its batch axis.
    exclude_bos, exclude_current_token: leave out attention to the first
        token, and of a token to itself.
    error_measure: "mul", the share of attention that lies in the pattern; or
        "abs", 1 less the mean difference times the positions.

    Raises UsageError.
    """
    if error_measure not in ("mul", "abs"):
        raise UsageError(f"error_measure is 'mul' or 'abs', not {error_measure!r}")
    how = dict(exclude_bos=exclude_bos, exclude_current_token=exclude_current_token)
    if isinstance(seq, (list, tuple)):
        each = [
            detect_head(
                model, it, detection_pattern, heads, error_measure=error_measure, **how
            )
            for it in seq
        ]
        return mx.stack(each).mean(axis=0)
    tokens = model.to_tokens(seq)
    if isinstance(detection_pattern, str):
        if detection_pattern not in _PATTERNS:
            raise UsageError(
                f"no head is called {detection_pattern!r}; there are "
                f"{', '.join(HEAD_NAMES)}"
            )
        expected = _PATTERNS[detection_pattern](tokens)
    else:
        expected = detection_pattern.astype(mx.float32)
    n = tokens.shape[-1]
    if expected.shape != (n, n) or not mx.array_equal(expected, mx.tril(expected)):
        raise UsageError(
            f"the detection pattern is [{n}, {n}] and lower triangular, for a text of "
            f"{n} tokens, not of shape {tuple(expected.shape)}"
        )
    if cache is None:
        _, cache = model.run_with_cache(
            tokens, lambda name: name.endswith("hook_pattern"), remove_batch_dim=True
        )
    layers = range(len(model.layers))
    patterns = mx.stack([cache["pattern", i] for i in layers]).astype(mx.float32)
    scores = _scores(patterns, expected, error_measure, **how)
    if heads is None:
        return scores
    pairs = heads
    if isinstance(heads, dict):
        pairs = [(layer, head) for layer, those in heads.items() for head in those]
    chosen = mx.full(scores.shape, -1.0)
    for layer, head in pairs:
        chosen[layer, head] = scores[layer, head]
    return chosen


def _scores(patterns, expected, measure, exclude_bos, exclude_current_token) -> mx.array:
    counted = mx.ones(expected.shape)
    if exclude_bos:
        counted[:, 0] = 0
    if exclude_current_token:
        counted = counted * (1 - mx.eye(expected.shape[0]))
    if measure == "mul":
        found = patterns * counted
        return (found * expected).sum(axis=(-1, -2)) / found.sum(axis=(-1, -2))
    n = expected.shape[0]
    return 1 - (mx.abs(patterns - expected) * counted).mean(axis=(-1, -2)) * n
