"""An engine with a module attached to one of its sites."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from ..errors import UnknownNameError, UsageError
from .base import Engine, Intervention, Pass
from .wrapped import WrappedEngine

_ERROR = "error"


def engine_of(module: Any, mode: str) -> WrappedEngine:
    """What runs an attached module. Raises UsageError."""
    if mode not in (modes := ("read", "replace", "replace_with_error")):
        raise UsageError(f"attach: mode {mode!r} is not one of {', '.join(modes)}.")
    if not callable(module):
        raise UsageError(
            f"attach: a module or a function is needed, not {type(module).__name__}."
        )
    return WrappedEngine(
        module if isinstance(module, nn.Module) else nn.Sequential(module), None
    )


class Run:
    """An attached module as C++ runs it: see python/src/attach.cpp."""

    def __init__(self, engine: WrappedEngine):
        self._engine = engine
        self.parts = [path for path, _ in engine.named_modules() if path]
        self._called: list[str] | None = None  # of them, as the first pass did

    def __call__(self, x: mx.array, tap: Callable | None) -> mx.array:
        if tap is None:
            return self._engine.forward(x)
        if self._called is None:
            keys = self._engine.run(x).keys()
            called = [key.removeprefix("model.") for key in keys]
            self._called = [path for path in called if path in self.parts]
        taps = [
            (f"{path}.{end}", partial(tap, path, end == "input"))
            for path in self._called
            for end in ("input", "output")
        ]
        return self._engine.run(x, taps).output


class Attached:
    """The `Engine` of the contract: another one, in whose passes a module reads
    the value of a site, before the edits of the pass. Its parts are sites too,
    `<site>.<name>.<part>`, and its output is `<site>.<name>`. The other engine
    stays as it is, and may have several.

    mode: "read" leaves the value as it is; "replace" puts what the module
        returns in its place; "replace_with_error" also adds its error, value -
        output without edits inside, so that nothing changes until something
        inside is edited. The error is a site of its own,
        `<site>.<name>.error`.
    """

    model = None  # what C++ runs knows nothing of it

    def __init__(
        self,
        engine: Engine,
        site: str,
        module: Any,
        mode: str,
        name: str,
        standing: Sequence[tuple[str, Intervention]] = (),
    ):
        self._module = engine_of(module, mode)
        self._engine, self._mode, self._standing = engine, mode, list(standing)
        self._at = engine.resolve(site)
        if not name.isidentifier():
            raise UsageError(f"attach: {name!r} is no name for sites.")
        self._name = name
        with suppress(UnknownNameError):
            engine.resolve(f"{site}.{name}")
            raise UsageError(f"attach: there is a '{site}.{name}' already.")
        self._missed = WrappedEngine(nn.Identity(), None)

    def attach(self, site, module, mode, name, by_position, standing=()):
        """As the contract says."""
        return Attached(self, site, module, mode, name, standing)

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
            if y.shape != x.shape:
                raise UsageError(
                    f"The module attached at '{self._at}' returned {y.shape}; expected "
                    f"{x.shape}. Return that shape, or attach it with mode 'read'."
                )
            if self._mode == "replace":
                return y
            plain = self._module.forward(x).astype(x.dtype) if inside else y
            runs.append(self._missed.run(x - plain, missed))
            # Exactly the value, where nothing is edited.
            return y + runs[1].output if missed else x + (y - plain)

        held = self._engine.run(inputs, [*self._standing, (self._at, act), *others])
        return AttachedPass(held, start, runs)

    def forward(self, *args, **kwargs):
        """The model with the module attached."""
        if len(args) == 1 and not kwargs:
            return self.run(args[0]).output
        raise UsageError("A model with a module attached is called with inputs alone.")

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
