"""Hooks that a `HookedTransformer` keeps: `add_hook`, `hooks`, `reset_hooks`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ...errors import UsageError
from .hooks import HookPoint, Names


@dataclass
class Added:
    """A hook that stays until it is taken away."""

    names: Names
    function: Callable
    backward: bool
    permanent: bool


class KeptHooksMixin:
    """Hooks of one handle, and the points they are told."""

    _added: list[Added]
    _points: dict[str, HookPoint]

    def run_with_hooks(
        self,
        input: Any,
        fwd_hooks: Sequence[tuple[Names, Callable]] = (),
        bwd_hooks: Sequence[tuple[Names, Callable]] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
        **how,
    ) -> Any:
        """A pass with functions at hook points, besides those added: see
        InterpretableModel. A backward hook is called with the gradient of what
        is returned, `function(gradient, hook=HookPoint)`, the last layer's
        first; it reads only. `how`: as for a call."""
        with self.hooks(fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts):
            return self(input, **how)

    @contextmanager
    def hooks(
        self,
        fwd_hooks: Sequence[tuple[Names, Callable]] = (),
        bwd_hooks: Sequence[tuple[Names, Callable]] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Iterator[Any]:
        """Hooks for every pass in a `with`."""
        before = list(self._added)
        try:
            for names, function in fwd_hooks:
                self.add_hook(names, function)
            for names, function in bwd_hooks:
                self.add_hook(names, function, "bwd")
            yield self
        finally:
            if reset_hooks_end:
                self._added[:] = before
            if clear_contexts:
                self.clear_contexts()

    def add_hook(
        self,
        name: Names,
        hook: Callable,
        dir: str = "fwd",
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> None:
        """A function at hook points, in every call of this handle until
        `reset_hooks`; analyses do not see it, they take `model.edited(...)`."""
        if dir not in ("fwd", "bwd"):
            raise UsageError(f"dir is 'fwd' or 'bwd', not {dir!r}")
        self._hooks_meant(name)  # raises
        added = Added(name, hook, dir == "bwd", is_permanent)
        self._added.insert(0 if prepend else len(self._added), added)

    def add_perma_hook(self, name: Names, hook: Callable, dir: str = "fwd") -> None:
        """One that `reset_hooks` leaves."""
        self.add_hook(name, hook, dir, is_permanent=True)

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: str = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Takes the added hooks away."""
        these = {"both": (False, True), "fwd": (False,), "bwd": (True,)}[direction]
        stays = [
            it
            for it in self._added
            if it.backward not in these or (it.permanent and not including_permanent)
        ]
        self._added[:] = stays
        if clear_contexts:
            self.clear_contexts()

    def clear_contexts(self) -> None:
        """Empties every hook point's `ctx`."""
        for point in self._points.values():
            point.clear_context()

    def hook_point(self, name: str) -> HookPoint:
        """The hook point that functions at that name are told."""
        if name not in self._points:
            self._hooks_meant(name)  # raises
            self._points[name] = HookPoint(name)
        return self._points[name]

    @property
    def hook_dict(self) -> dict[str, HookPoint]:
        """All hook points by their names."""
        for name in self.hook_names():
            self._points.setdefault(name, HookPoint(name))
        return {name: self._points[name] for name in self.hook_names()}
