"""A pass that can be had again after it has been let go."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from ..engine._random import random_state, random_state_kept
from ..engine.base import Engine, Pass


class Repeatable:
    """What a pass was run on, and the pass itself while it is held: the same
    inputs, edits at resolved sites and random numbers give it again.

    Attributes:
        rows: inputs as the engine takes them.
        edits: (site, function), in order.
        output: the model's output, lazy; it stays.
        keys: gives the pass's keys, also after it has been let go.
    """

    def __init__(
        self,
        engine: Engine,
        rows: list[list[int]] | mx.array,
        edits: list[tuple[str, Callable]],
    ):
        self.engine, self.rows, self.edits = engine, rows, edits
        self._start = random_state()
        self._held: Pass | None = engine.run(rows, edits)
        self.output = self._held.output
        self.keys = self._held.keys
        self.lengths = self._held.lengths

    @property
    def held(self) -> bool:
        """Whether its values are at hand without running it again."""
        return self._held is not None

    def get(self) -> Pass:
        """The pass, run again where it was let go."""
        if self._held is None:
            self._held = self._again(self.edits)
        return self._held

    def value(self, name: str) -> mx.array:
        """The lazy value of any site by name."""
        return self.get().value(self.engine.resolve(name))

    def take(self) -> Pass:
        """Hands the pass over, to be finished."""
        taken, self._held = self.get(), None
        return taken

    def drop(self) -> None:
        """Lets the pass go as it is."""
        self._held = None

    def edit(self, site: str, fn: Callable) -> None:
        """Adds an edit: the pass is built anew with it."""
        edits = [*self.edits, (site, fn)]
        self._held = self._again(edits)
        self.edits, self.output = edits, self._held.output

    def _again(self, edits) -> Pass:
        with random_state_kept(start=self._start):
            return self.engine.run(self.rows, edits)
