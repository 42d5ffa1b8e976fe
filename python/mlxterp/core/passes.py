"""The pass of a trace, which is built anew when the trace sets a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import mlx.core as mx

from .._core import Intervention, SiteView
from ..engine._random import random_state, random_state_kept, set_random_state
from ..engine.base import Engine, Pass, handle


@dataclass
class _Building:
    """How far a pass is built: whether what is read is as it was the last
    time, and how often each function was called."""

    unchanged: bool = False
    calls: dict = field(default_factory=dict)


class _Once:
    """A user's function that acts once on a value: while a pass is built anew
    up to the value that was set, it gives what it gave, and the random state
    behind it, without being called."""

    def __init__(self, fn: Callable, building: _Building):
        self.__wrapped__ = fn  # whose arguments are asked for
        self._fn, self._building = fn, building
        self._given: list[tuple[mx.array, mx.array]] = []

    def __call__(self, x: mx.array, *more) -> mx.array:
        building = self._building
        n = building.calls.setdefault(self, 0)
        building.calls[self] = n + 1
        if building.unchanged and n < len(self._given):
            y, state = self._given[n]
            if state is not random_state():
                set_random_state(state)
            return y
        del self._given[n:]
        y = self._fn(x, *more)
        self._given.append((y, random_state()))
        return y


class Build:
    """A pass on some inputs, built lazily, and again with every value set.

    Attributes:
        held: the pass.
        sets: how many values have been set.
    """

    def __init__(
        self,
        engine: Engine,
        rows: list[list[int]] | mx.array,
        edits: list[tuple[str, Callable]],
    ):
        self.engine = engine
        self.rows = handle(rows) if isinstance(rows, mx.array) else rows
        self._building = _Building()
        self._edits = [(site, _Once(fn, self._building)) for site, fn in edits]
        self._start = random_state()
        self.sets = 0
        self.held: Pass = engine.run(self.rows, self._edits)

    def set(self, site: str, fn: Callable) -> None:
        """Builds the pass anew with one more edit, behind the others."""
        building, fn = self._building, Intervention(fn)

        def setting(x: mx.array, at: SiteView) -> mx.array:
            building.unchanged = False
            return fn(x, at)

        edits = [*self._edits, (site, _Once(setting, building))]
        building.unchanged, building.calls = True, {}
        with random_state_kept(start=self._start):
            self.held = self.engine.run(self.rows, edits)
        self._edits = edits
        self.sets += 1
