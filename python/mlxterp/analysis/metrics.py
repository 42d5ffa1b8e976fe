"""One number for what a run says: what sweeps and attributions measure.

A token is an id, or text that is exactly one token (" Mary"); one for all
prompts or a list with one for each. Metrics read the last position, or the one
set: `metric.position = -2`. Raises UnknownNameError where a text is not one
token, when the metric is used.
"""

from __future__ import annotations

from .._core import (
    Metric,
    custom,
    custom_of_run,
    kl_divergence,
    log_probability,
    logit,
    logit_diff,
    loss,
    probability,
    rank,
)
from ..errors import UsageError

__all__ = [
    "Metric",
    "as_metric",
    "custom",
    "custom_of_run",
    "kl_divergence",
    "log_probability",
    "logit",
    "logit_diff",
    "loss",
    "probability",
    "rank",
]


def as_metric(metric) -> Metric:
    """A metric as it is; a pair of tokens as their logit difference; a function
    of logits as a metric of one's own. Raises UsageError."""
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return custom(getattr(metric, "__name__", "metric"), metric)
    if isinstance(metric, tuple) and len(metric) == 2:
        return logit_diff(*metric)
    raise UsageError(
        "a metric is one of mlxterp.metrics, a pair (token, foil) or a function "
        f"of logits, not {type(metric).__name__}"
    )
