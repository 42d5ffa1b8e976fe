"""One number for what a run says: what sweeps and attributions measure.

A token is an id, or text that is exactly one token (" Mary"); one for all
prompts or a list with one for each. Metrics read the last position, or the one
set: `metric.position = -2`. Raises UnknownNameError where a text is not one
token, when the metric is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Union

import mlx.core as mx

from . import _core
from ._core import Metric

Token = Union[int, str]
Tokens = Union[Token, Sequence[Token]]


def _tokens(tokens: Tokens):
    return tokens if isinstance(tokens, (int, str)) else list(tokens)


def logit(token: Tokens) -> Metric:
    """The token's logit."""
    return _core.logit(_tokens(token))


def logit_diff(token: Tokens, foil: Tokens) -> Metric:
    """The token's logit less the foil's (Wang et al., 2022)."""
    return _core.logit_diff(_tokens(token), _tokens(foil))


def probability(token: Tokens) -> Metric:
    """The token's probability, 0 to 1."""
    return _core.probability(_tokens(token))


def log_probability(token: Tokens) -> Metric:
    """The natural logarithm of its probability."""
    return _core.log_probability(_tokens(token))


def rank(token: Tokens) -> Metric:
    """How many tokens are ahead of it: 0 for the winner."""
    return _core.rank(_tokens(token))


def kl_divergence() -> Metric:
    """From what the clean run says to what this one says, in nats."""
    return _core.kl_divergence()


def loss() -> Metric:
    """Mean cross-entropy of the prompt's own next tokens, in nats."""
    return _core.loss()


def custom(name: str, function: Callable[[mx.array], mx.array]) -> Metric:
    """One's own: from logits [row, vocab], float32, at the metric's position
    to values [row]."""
    return _core.custom(name, function)


def custom_of_run(name: str, function: Callable[[mx.array], mx.array]) -> Metric:
    """One's own, of every position: from the logits of one run, [pos, vocab],
    float32, to one number. A sweep calls it once for each cell."""
    return _core.custom_of_run(name, function)


def as_metric(metric) -> Metric:
    """A metric as it is; a pair of tokens as their logit difference; a function
    of logits as a metric of one's own."""
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return custom(getattr(metric, "__name__", "metric"), metric)
    if isinstance(metric, tuple) and len(metric) == 2:
        return logit_diff(*metric)
    raise TypeError(
        f"a metric is one of mlxterp.metrics, a pair (token, foil) or a "
        f"function of logits, not {type(metric).__name__}"
    )
