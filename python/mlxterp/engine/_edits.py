"""Interventions as a pass applies them: checked, watched for NaN and
infinities, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import mlx.core as mx

from .._core import Intervention, Layout, SiteView, apply_edit
from ..errors import UsageError
from ._patches import suspended
from .base import layout_of


class Edit:
    """One intervention at one site, during one pass. `name` is what the
    intervention is told, `lengths` the real positions of each row of the batch."""

    __slots__ = ("_edit", "_lengths", "_name", "fired", "guards", "site")

    def __init__(self, site: str, fn: Callable, name: str, lengths: list[int]):
        self.site, self._edit = site, Intervention(fn)
        self._name, self._lengths = name, lengths
        self.fired = False
        self.guards: list[mx.array] = []  # lazy bools: not finite by the edit

    def __call__(self, value: mx.array) -> mx.array:
        """The edited value. Raises UsageError where it is no array of the
        same shape and dtype; what `fn` raises passes unchanged."""
        self.fired = True
        with suspended():
            edited = apply_edit(self._edit, value, self._view(value))
        if edited is not value and mx.issubdtype(edited.dtype, mx.floating):
            infinite = mx.isinf(edited) & mx.isfinite(value)
            if self.site.endswith(".scores"):  # -inf there hides a position
                infinite = infinite & (edited > 0)
            self.guards.append((mx.isnan(edited) | infinite).any())
        return edited

    def _view(self, value: mx.array) -> SiteView:
        """What the axes of the value are: of a module's own they are known only
        where the first two are those of the batch."""
        layout = layout_of(self.site)
        batch = len(self._lengths), max(self._lengths)
        if layout == Layout.features and value.shape[:2] != batch:
            layout = Layout.other
        return SiteView(self._name, layout, self._lengths)

    def check(self):
        """Raises UsageError where an evaluated guard saw a NaN or an infinity."""
        if any(guard.item() for guard in self.guards):
            raise UsageError(
                f"The intervention on '{self.site}' made a NaN or an infinity: "
                "check its arithmetic for x/0, inf-inf or a scale beyond the dtype."
            )


def apply(edits: Iterable[Callable], value: mx.array) -> mx.array:
    for edit in edits:
        value = edit(value)
    return value
