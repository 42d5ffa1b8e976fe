"""Interventions as a pass applies them: checked, watched for NaN and
infinities, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import mlx.core as mx

from .._core import Layout, SiteView, takes_view
from ..errors import UsageError
from ._patches import suspended

_LAYOUTS = dict.fromkeys(("q", "k", "v", "rot_q", "rot_k", "z"), Layout.heads)
_LAYOUTS |= dict.fromkeys(("scores", "pattern"), Layout.scores)


class Edit:
    """One intervention at one site, during one pass. `number` is the site's
    own, `lengths` the real positions of each row of the batch."""

    __slots__ = ("_lengths", "_number", "_viewed", "fired", "fn", "guards", "site")

    def __init__(self, site: str, fn: Callable, number: int, lengths: list[int]):
        self.site, self.fn = site, fn
        self._number, self._lengths = number, lengths
        self._viewed = takes_view(fn)
        self.fired = False
        self.guards: list[mx.array] = []  # lazy bools: not finite by the edit

    def __call__(self, value: mx.array) -> mx.array:
        """The edited value. Raises UsageError where it is no array of the
        same shape and dtype; what `fn` raises passes unchanged."""
        self.fired = True
        with suspended():
            given = (value, self._view(value)) if self._viewed else (value,)
            edited = self.fn(*given)
        if type(edited) is not mx.array and isinstance(edited, mx.array):
            edited = edited.astype(edited.dtype)  # what a trace read
        if not isinstance(edited, mx.array):
            raise UsageError(
                f"The intervention on '{self.site}' must return an mx.array, "
                f"not {type(edited).__name__}."
            )
        if edited.shape != value.shape or edited.dtype != value.dtype:
            raise UsageError(
                f"The intervention on '{self.site}' must keep shape and dtype: "
                f"expected {shown(value)}, got {shown(edited)}."
            )
        if edited is not value and mx.issubdtype(edited.dtype, mx.floating):
            infinite = mx.isinf(edited) & mx.isfinite(value)
            if self.site.endswith(".scores"):  # -inf there hides a position
                infinite = infinite & (edited > 0)
            self.guards.append((mx.isnan(edited) | infinite).any())
        return edited

    def _view(self, value: mx.array) -> SiteView:
        """What the axes of the value are: of a module's own they are known only
        where the first two are those of the batch."""
        layout = _LAYOUTS.get(self.site.rpartition(".")[2])
        if layout is None:
            batch = (len(self._lengths), max(self._lengths))
            told = value.shape[:2] == batch
            layout = Layout.features if told else Layout.other
        return SiteView(self.site, layout, self._lengths, self._number)

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


def shown(x: mx.array) -> str:
    return f"{str(x.dtype).rpartition('.')[2]} {tuple(x.shape)}"
