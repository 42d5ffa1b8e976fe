"""An engine with a module attached to one of its sites."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import UnknownNameError, UsageError
from .base import Engine, Intervention, Pass
from .wrapped import WrappedEngine

MODES = ("read", "replace", "replace_with_error")
_ERROR = "error"


class Attached:
    """The `Engine` of the contract: another one, in whose passes a module reads
    the value of a site, behind the edits made there. What happens inside it is
    sites too: `<site>.<name>.<part>`, `<site>.<name>` its output. The other
    engine stays as it is, and may have several.

    mode: "read" leaves the value as it is; "replace" puts what the module
        returns in its place; "replace_with_error" also adds what it misses
        unedited, value + (edited output - output), so that without edits
        inside nothing changes. What it misses is a site of its own,
        `<site>.<name>.error`.
    """

    model = None  # what C++ runs knows nothing of it

    def __init__(
        self,
        engine: Engine,
        site: str,
        module: Any,
        mode: str = "read",
        name: str = "attached",
    ):
        if mode not in MODES:
            raise UsageError(f"attach: mode {mode!r} is none of {', '.join(MODES)}.")
        if not callable(module):
            raise UsageError(
                f"attach: a module or a function is needed, not {type(module).__name__}."
            )
        self._engine, self._mode = engine, mode
        self._at = engine.resolve(site)
        if not name.isidentifier():
            raise UsageError(f"attach: {name!r} is no name for sites.")
        self._name = name
        with suppress(UnknownNameError):
            engine.resolve(f"{site}.{name}")
            raise UsageError(f"attach: there is a '{site}.{name}' already.")
        module = module if isinstance(module, nn.Module) else nn.Sequential(module)
        self._module = WrappedEngine(module, None)
        self._missed = WrappedEngine(nn.Identity(), None)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._engine, name)

    def resolve(self, name: str) -> str:
        inside = self._inside(name)
        if inside is None:
            return self._engine.resolve(name)
        if inside == _ERROR and self._mode == "replace_with_error":
            return self._full(_ERROR)
        return self._full(self._module.resolve(inside))

    def match(self, pattern: str) -> list[str]:
        inside = self._inside(pattern)
        if inside is None:
            return self._engine.match(pattern)
        if inside == _ERROR:
            return [self.resolve(pattern)]
        return [self._full(site) for site in self._module.match(inside)]

    def run(
        self,
        inputs: list[list[int]] | mx.array,
        interventions: Sequence[tuple[str, Intervention]] = (),
    ) -> Pass:
        start, runs = self._full(""), []
        inside = [
            (site[len(start) :], fn)
            for site, fn in interventions
            if site.startswith(start) and site != start + _ERROR
        ]
        missed = [("output", fn) for site, fn in interventions if site == start + _ERROR]
        others = [it for it in interventions if not it[0].startswith(start)]

        def act(x: mx.array) -> mx.array:
            run = self._module.run(x, inside)
            runs[:] = [run]
            if self._mode == "read":
                return x
            y = run.output.astype(x.dtype)
            if self._mode == "replace":
                return y
            plain = self._module.forward(x).astype(x.dtype) if inside else y
            runs.append(self._missed.run(x - plain, missed))
            # Exactly the value, where nothing is edited.
            return y + runs[1].output if missed else x + (y - plain)

        # Behind what is edited at the site itself.
        own = [it for it in others if it[0] == self._at]
        others = [it for it in others if it[0] != self._at]
        held = self._engine.run(inputs, [*own, (self._at, act), *others])
        return AttachedPass(held, start, runs)

    def forward(self, *args, **kwargs):
        """The model with the module attached."""
        if self._mode == "read" or len(args) != 1 or kwargs:
            return self._engine.forward(*args, **kwargs)
        return self.run(args[0]).output

    def _full(self, site: str) -> str:
        return f"{self._at}.{self._name}.{site}"

    def _inside(self, name: str) -> str | None:
        """What a name means inside the module, if it means something there."""
        if not isinstance(name, str):
            return None
        parts = name.split(".")
        for i, part in enumerate(parts):
            if part == self._name and i:
                with suppress(UnknownNameError):
                    if self._at in self._engine.match(".".join(parts[:i])):
                        return ".".join(parts[i + 1 :]) or "output"
        return None


class AttachedPass:
    """The `Pass` of the contract, with what happened inside the module."""

    def __init__(self, held: Pass, start: str, runs: list[Pass]):
        self.output, self.lengths, self.keys = held.output, held.lengths, held.keys
        self._held, self._start, self._runs = held, start, runs

    def value(self, site: str) -> mx.array:
        if site == self._start + _ERROR:
            return self._runs[1].value("output")
        if site.startswith(self._start):
            return self._runs[0].value(site[len(self._start) :])
        return self._held.value(site)

    def check(self, kept: Sequence[mx.array] = ()) -> None:
        self._held.check(kept)
        for run in self._runs:
            run.check()

    def finish(self, kept: Sequence[mx.array]) -> None:
        runs, self._runs = self._runs, []
        self._held.finish(kept)
        for run in runs:
            run.finish(())
