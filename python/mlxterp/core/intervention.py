"""Interventions: functions from a site's value to its replacement, of the same
shape and dtype. The engine's own, written in C++; any Python function of the
value, or of the value and its `SiteView` (site's name, layout, lengths), serves
as well.
"""

from __future__ import annotations

from collections.abc import Callable

from .._core import (
    Intervention,
    Layout,
    SiteView,
    add_vector,
    at_positions,
    clamp,
    compose,
    noise,
    on_heads,
    on_neurons,
    replace_with,
    scale,
    takes_view,
    zero_out,
)

__all__ = [
    "Intervention",
    "InterventionComposer",
    "Layout",
    "SiteView",
    "add_vector",
    "at_positions",
    "clamp",
    "noise",
    "on_heads",
    "on_neurons",
    "replace_with",
    "scale",
    "takes_view",
    "zero_out",
]


class InterventionComposer(Intervention):
    """Several interventions as one, the first first:

        InterventionComposer().add(scale(0.5)).add(add_vector(v)).build()
        InterventionComposer(scale(0.5), add_vector(v))

    It is itself an intervention, so `build()` may be left out.
    """

    def __init__(self, *interventions: Callable):
        self.interventions = steps = list(interventions)
        super().__init__(lambda x, at: compose(steps)(x, at))

    def add(self, fn: Callable) -> InterventionComposer:
        """Appends one; returns itself."""
        self.interventions.append(fn)
        return self

    def build(self) -> Intervention:
        """The interventions added so far as one."""
        return compose(self.interventions)
