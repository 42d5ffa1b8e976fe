"""Steps in front of module calls, for as long as a pass is being built.

The `__call__` of every class in the model is replaced, on the class that
defines it, and so are `mlx.core.fast.scaled_dot_product_attention` and
`mlx.core.softmax`. They are
counted under a lock, so that passes on several threads share them, and put
back by the last pass to leave: classes and MLX end exactly as they were.
What a replacement does depends on the thread's own current pass; where there
is none it calls the original at once.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable
from contextlib import contextmanager
from types import FunctionType

import mlx.core as mx


class _Current(threading.local):
    """The pass that this thread is building, if any."""

    run = None


current = _Current()

_lock = threading.Lock()
_CALL = "__call__"


def calling_class(kind: type) -> type | None:
    """The class whose own `__call__` an instance of `kind` runs. None where
    that is no plain Python function, which cannot be stepped in front of."""
    for base in kind.__mro__:
        if _CALL in vars(base):
            return base if isinstance(vars(base)[_CALL], FunctionType) else None
    return None


def _step_in_call(original):
    @functools.wraps(original)
    def __call__(self, *args, **kwargs):
        run = current.run
        if run is None:
            return original(self, *args, **kwargs)
        return run.call(self, original, args, kwargs)

    return __call__


def _step_in_function(method: str):
    """Steps in front of a function of MLX with a method of the pass."""

    def step_in(original):
        @functools.wraps(original)
        def stepped(*args, **kwargs):
            run = current.run
            if run is None:
                return original(*args, **kwargs)
            return getattr(run, method)(original, *args, **kwargs)

        return stepped

    return step_in


class _Replacement:
    """One attribute of one owner, replaced while `users` > 0."""

    def __init__(self, owner, name: str, step_in):
        self.owner, self.name, self.step_in = owner, name, step_in
        self.users = 0
        self.original = self.mine = None

    def enter(self):
        if self.users == 0:
            self.original = vars(self.owner)[self.name]
            self.mine = self.step_in(self.original)
            setattr(self.owner, self.name, self.mine)
        self.users += 1

    def leave(self):
        self.users -= 1
        # Someone may have put their own in front meanwhile: it stays, and
        # ours behind it does nothing without a pass.
        if self.users == 0 and vars(self.owner)[self.name] is self.mine:
            setattr(self.owner, self.name, self.original)


_functions = (
    _Replacement(mx.fast, "scaled_dot_product_attention", _step_in_function("attend")),
    _Replacement(mx, "softmax", _step_in_function("soften")),
)
_calls: dict[type, _Replacement] = {}  # of classes in use now


@contextmanager
def stepped_in(classes: Iterable[type], run):
    """Makes `run` this thread's pass while the block runs."""
    entered = []
    try:
        with _lock:
            for kind in classes:
                if kind not in _calls:
                    _calls[kind] = _Replacement(kind, _CALL, _step_in_call)
                _calls[kind].enter()
                entered.append(_calls[kind])
            for function in _functions:
                function.enter()
                entered.append(function)
        outer, current.run = current.run, run
        try:
            yield
        finally:
            current.run = outer
    finally:
        with _lock:
            for it in reversed(entered):
                it.leave()
                if not it.users:
                    _calls.pop(it.owner, None)


@contextmanager
def suspended():
    """No pass on this thread while the block runs: what a user's own code
    calls meanwhile is not part of the pass."""
    outer, current.run = current.run, None
    try:
        yield
    finally:
        current.run = outer
