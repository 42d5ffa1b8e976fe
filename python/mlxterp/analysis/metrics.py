"""Metrics: the number that sweeps and attributions measure of a run.

A token is an id, or text that is exactly one token (" Mary"); one for all
prompts or a list with one for each. Metrics read the last position, or the one
set: `metric.position = -2`. Raises UnknownNameError where a text is not one
token, when the metric is used.
"""

from __future__ import annotations

import warnings

from .. import _core
from .._core import Metric as Metric
from .._core import custom as custom
from .._core import custom_of_run as custom_of_run
from .._core import kl_divergence as kl_divergence
from .._core import log_probability as log_probability
from .._core import logit as logit
from .._core import logit_diff as logit_diff
from .._core import loss as loss
from .._core import probability as probability
from .._core import rank as rank
from ..errors import UsageError


def as_metric(metric, model: _core.Model, prompts=None) -> Metric:
    """A metric as it is; text as the shell has it, `"logit_diff( Mary, John)"`;
    a pair of tokens as their logit difference; a function of logits as a custom
    metric. Warns of a token that is probably not meant, "Mary" for
    " Mary", behind `prompts`, rows of ids. Raises UsageError."""
    prompts = prompts if isinstance(prompts, list) else []
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        return _core.parse_metric(model, [metric], _warn, prompts)
    name = getattr(metric, "__name__", "metric")
    if getattr(_core, name, None) is metric:
        raise UsageError(f"{name} makes a metric: call it, as in metrics.{name}(...)")
    if callable(metric):
        return custom(name, metric)
    if isinstance(metric, tuple) and len(metric) == 2:
        if all(isinstance(token, str) for token in metric):
            for sentence in _core.answer_warnings(model, list(metric), prompts):
                _warn(sentence)
        return logit_diff(*metric)
    raise UsageError(
        "a metric is one of mlxterp.metrics, a text such as 'prob( Paris)', a pair "
        f"(token, foil) or a function of logits, not {type(metric).__name__}"
    )


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=6)


def warn_of_runs(metric: Metric | None, sweep: _core.Sweep) -> None:
    """Warns where the clean run does not do what the metric measures, or no
    better than the corrupted one."""
    for sentence in _core.run_warnings(metric, sweep):
        warnings.warn(sentence, stacklevel=4)
