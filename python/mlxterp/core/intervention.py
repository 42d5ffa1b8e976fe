"""Interventions: functions from a site's value to its replacement, of the same
shape and dtype. The engine's own, written in C++; any Python function of the
value, or of the value and its `SiteView` (site's name, layout, lengths), serves
as well.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from .._core import (
    Intervention,
    add_vector,
    at_positions,
    clamp,
    clamp_along,
    compose,
    during,
    noise,
    on_heads,
    on_neurons,
    on_prompts,
    parse_intervention,
    project_out,
    replace_with,
    scale,
    zero_out,
)


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

    def __copy__(self, memo=None) -> InterventionComposer:
        return InterventionComposer(*self.interventions)

    __deepcopy__ = __copy__

    def build(self) -> Intervention:
        """The interventions added so far as one."""
        return compose(self.interventions)


#: All of them, by their short names.
interventions = SimpleNamespace(
    zero_out=zero_out,
    scale=scale,
    add_vector=add_vector,
    replace_with=replace_with,
    clamp=clamp,
    project_out=project_out,
    clamp_along=clamp_along,
    noise=noise,
    compose=InterventionComposer,
    parse=parse_intervention,
    at_positions=at_positions,
    on_heads=on_heads,
    on_neurons=on_neurons,
    on_prompts=on_prompts,
    during=during,
)
