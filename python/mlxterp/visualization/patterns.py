"""Heads of known kinds, found by where they attend.

Olsson et al., "In-context Learning and Induction Heads", 2022,
arXiv:2209.11895; Wang et al., "Interpretability in the Wild", 2022,
arXiv:2211.00593. A pattern is [destination, source], all scores are means of
attention and lie in 0 … 1. Searches take an InterpretableModel and the `layers`
to look at, None for all; they raise UsageError where the model's patterns are
not computed, UnknownNameError for a layer without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from ..analysis.layer_sites import vocabulary
from ..errors import UsageError
from .extract import row_patterns

__all__ = [
    "HeadScore",
    "AttentionPatternDetector",
    "detect_head_types",
    "detect_induction_heads",
    "find_attention_pattern",
    "induction_score",
    "previous_token_score",
    "first_token_score",
    "current_token_score",
    "copying_score",
]

# Rows of a [vocab, vocab] matrix that are in memory at once.
_ROWS_AT_ONCE = 1024


@dataclass
class HeadScore:
    """A head, how well it fits a kind, and the kind."""

    layer: int
    head: int
    score: float
    head_type: str | None = None


def induction_score(attention_pattern: np.ndarray, seq_len: int) -> float:
    """The attention from each token of a repetition to the token that followed
    it last time: from i to i − seq_len + 1.

    Args:
        attention_pattern: [destination, source] of tokens that repeat.
        seq_len: After how many tokens they repeat.

    Returns: the mean over destinations from `seq_len` on; 0 where there are
        none. Raises UsageError for a `seq_len` below 1.
    """
    if seq_len < 1:
        raise UsageError(f"seq_len must be at least 1, but is {seq_len}")
    attended = np.diagonal(attention_pattern, offset=1 - seq_len)[1:]
    return float(np.mean(attended)) if attended.size else 0.0


def previous_token_score(attention_pattern: np.ndarray) -> float:
    """The mean attention from each token to the one before it; 0 for a single
    token."""
    attended = np.diagonal(attention_pattern, offset=-1)
    return float(np.mean(attended)) if attended.size else 0.0


def first_token_score(attention_pattern: np.ndarray) -> float:
    """The mean attention to the first token."""
    return float(np.mean(attention_pattern[:, 0]))


def current_token_score(attention_pattern: np.ndarray) -> float:
    """The mean attention of each token to itself."""
    return float(np.mean(np.diagonal(attention_pattern)))


def copying_score(
    ov_circuit: np.ndarray, unembedding: np.ndarray | None = None
) -> float:
    """How much a head writes what it reads: the mean of the diagonal of its OV
    circuit over the mean magnitude of all entries.

    Args:
        ov_circuit: W_V W_O, [d_model, d_model].
        unembedding: W_U, [d_model, vocab]; with it the circuit from token to
            token is scored, which is never held in memory as a whole.

    Returns: a number of any size, positive where attending to a token raises
        that token's own logit.
    """
    if unembedding is None:
        diagonal, magnitude = np.diag(ov_circuit).mean(), np.abs(ov_circuit).mean()
    else:
        read = unembedding.T @ ov_circuit  # [vocab, d_model]
        vocab = read.shape[0]
        diagonal = np.einsum("vd,dv->v", read, unembedding).mean()
        total = 0.0
        for start in range(0, vocab, _ROWS_AT_ONCE):
            rows = read[start : start + _ROWS_AT_ONCE] @ unembedding
            total += float(np.abs(rows).sum(dtype=np.float64))
        magnitude = total / vocab**2
    return float(diagonal / (magnitude + 1e-8))


_SCORES = {
    "previous_token": previous_token_score,
    "first_token": first_token_score,
    "current_token": current_token_score,
}


@dataclass
class AttentionPatternDetector:
    """Classifies heads by scores above thresholds."""

    induction_threshold: float = 0.4
    previous_token_threshold: float = 0.5
    first_token_threshold: float = 0.3
    current_token_threshold: float = 0.3

    def analyze_head(
        self,
        attention_pattern: np.ndarray,
        seq_len_for_induction: int | None = None,
    ) -> dict[str, float]:
        """{kind: score} of a pattern [destination, source]; "induction" only
        where told after how many tokens the text repeats."""
        scores = {kind: score(attention_pattern) for kind, score in _SCORES.items()}
        if seq_len_for_induction is not None:
            scores["induction"] = induction_score(
                attention_pattern, seq_len_for_induction
            )
        return scores

    def classify_head(
        self,
        attention_pattern: np.ndarray,
        seq_len_for_induction: int | None = None,
    ) -> list[str]:
        """The kinds whose score is above its threshold, or ["unknown"]."""
        scores = self.analyze_head(attention_pattern, seq_len_for_induction)
        kinds = [
            kind
            for kind, score in scores.items()
            if score > getattr(self, f"{kind}_threshold")
        ]
        return kinds or ["unknown"]


def _heads(
    model: Any, inputs: Any, layers: Sequence[int] | None
) -> list[tuple[int, int, np.ndarray]]:
    """(layer, head, pattern [destination, source]) of one text."""
    with model.trace(inputs) as trace:
        patterns = row_patterns(trace, layers)
    return [
        (layer, head, value[0, head])
        for layer, value in patterns.items()
        for head in range(value.shape[1])
    ]


def detect_head_types(
    model: Any,
    text: str,
    threshold: float = 0.4,
    layers: Sequence[int] | None = None,
) -> dict[str, list[tuple[int, int]]]:
    """The heads that attend to the previous, first or current token of a text.

    Args:
        text: Any text of more than a few tokens.
        threshold: The least mean attention of every kind.

    Returns:
        {"previous_token" | "first_token" | "current_token" | "unknown":
        [(layer, head)]}; a head may be of several kinds.
    """
    detector = AttentionPatternDetector(threshold, threshold, threshold, threshold)
    found: dict[str, list[tuple[int, int]]] = {it: [] for it in (*_SCORES, "unknown")}
    for layer, head, pattern in _heads(model, text, layers):
        for kind in detector.classify_head(pattern):
            found[kind].append((layer, head))
    return found


def _repeated_tokens(model: Any, count: int, repeats: int, seed: int) -> list[int]:
    """`count` random tokens from the middle of the vocabulary, where no special
    ones are, `repeats` times."""
    known = vocabulary(model)  # a tokenizer may have more
    known = min(known, getattr(model.tokenizer, "vocab_size", None) or known)
    low, high = int(known * 0.1), int(known * 0.9)
    if low >= high:
        raise UsageError(f"a vocabulary of {known} is too small for random tokens")
    tokens = np.random.RandomState(seed).randint(low, high, size=count)
    return np.tile(tokens, repeats).tolist()


def detect_induction_heads(
    model: Any,
    n_random_tokens: int = 50,
    n_repeats: int = 2,
    threshold: float = 0.4,
    layers: Sequence[int] | None = None,
    seed: int = 42,
) -> list[HeadScore]:
    """The heads that, where random tokens repeat, attend to what followed the
    current token last time.

    Args:
        n_random_tokens: Tokens of one repetition, at least 1.
        n_repeats: How often they come, at least 2; else UsageError.
        threshold: The least `induction_score`.
        seed: Of the tokens; numpy's global state is left alone.

    Returns: heads above the threshold, the strongest first.
    """
    if n_random_tokens < 1 or n_repeats < 2:
        raise UsageError(
            "induction needs at least 1 token and 2 repetitions, not "
            f"{n_random_tokens} and {n_repeats}"
        )
    tokens = _repeated_tokens(model, n_random_tokens, n_repeats, seed)
    return _above(
        _heads(model, mx.array([tokens]), layers),
        lambda pattern: induction_score(pattern, n_random_tokens),
        threshold,
        "induction",
    )


def find_attention_pattern(
    model: Any,
    text: str,
    pattern_fn: Callable[[np.ndarray], float],
    threshold: float = 0.5,
    layers: Sequence[int] | None = None,
) -> list[HeadScore]:
    """The heads whose pattern [destination, source] on a text `pattern_fn`
    scores above `threshold`, the highest first."""
    return _above(_heads(model, text, layers), pattern_fn, threshold, "custom")


def _above(
    heads: list[tuple[int, int, np.ndarray]],
    score: Callable[[np.ndarray], float],
    threshold: float,
    kind: str,
) -> list[HeadScore]:
    """Heads scored above a threshold, the highest first."""
    scored = [HeadScore(i, head, score(pattern), kind) for i, head, pattern in heads]
    return sorted((h for h in scored if h.score > threshold), key=lambda h: -h.score)
