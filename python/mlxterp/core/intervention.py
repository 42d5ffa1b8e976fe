"""Interventions: functions from a site's value to its replacement, of the same
shape and dtype. The engine's own, written in C++; any Python function of the
value, or of the value and its `SiteView` (site's name, layout, lengths), serves
as well.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from .. import _core
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


def parse_intervention(text: str, model=None) -> Intervention:
    """An edit as the shell's `--edit` has it: "at_positions(-1, scale(0.5))". Those
    along a Jacobian lens, "lens_swap(FILE, ' Paris', ' Rome')", take the model.
    Raises UsageError, and what reading its files raises."""
    if model is None:
        return _core.parse_intervention(text)
    from ..analysis._native import native

    return _core.parse_intervention(text, native(model, "parse_intervention()"))


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
