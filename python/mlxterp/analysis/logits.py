"""A logit as the sum of each component's contribution."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from .. import _core
from ..core.optional import require
from ._native import asked


@dataclass
class LogitAttribution:
    """`parts` in the model's order, each with kind, layer, unit, value and name;
    `accumulated` [layer + 1]: the logit read from the residual stream before each
    layer and at the end; `sum` of the parts is the metric before any softcap, `model`
    the metric as the model computes it."""

    parts: list[_core.LogitPart]
    accumulated: mx.array
    sum: float
    model: float

    def to_pandas(self):
        """A row for each part: name, kind, layer, unit, value, spread."""
        pd = require("pandas")
        fields = ["name", "kind", "layer", "unit", "value", "spread"]
        return pd.DataFrame(
            [[getattr(p, f) for f in fields] for p in self.parts], columns=fields
        )

    def plot(self, count: int = 20, ax=None):
        """The `count` largest parts as bars: matplotlib's axes."""
        from ..view.figures import largest

        return largest(self.parts, count, ax)


def logit_attribution(
    model, prompts, metric, unit: str = "component", progress=None
) -> LogitAttribution:
    """Direct logit attribution (Elhage et al., 2021). `metric`: logit or
    logit_diff; `unit`: "component", "head" or "neuron". The final norm's
    divisor is that of the run, held fixed; the parts sum to the logit."""
    found = _core.logit_attribution(
        *asked("logit_attribution()", _core.LogitAttributionOptions, locals())
    )
    return LogitAttribution(
        found.parts, mx.array(found.accumulated), found.sum, found.model
    )
