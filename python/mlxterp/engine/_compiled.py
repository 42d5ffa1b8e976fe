"""Models that keep functions made by `mx.compile`.

The first call of such a function records what the modules in it do, and later
ones call no module. A trace would see nothing, and worse, its interventions
would be recorded for good. So a model whose modules hold one runs uncompiled
while a pass is built.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn

_Compiled = type(mx.compile(lambda x: x))
_lock = threading.Lock()
_users = 0
_was_on = True


def hold_compiled(modules: Iterable[nn.Module]) -> bool:
    """Whether a module, or its class, has a compiled function as attribute."""
    kinds = {kind for module in modules for kind in type(module).__mro__}
    owners = [*modules, *(kind for kind in kinds if issubclass(kind, nn.Module))]
    return any(
        isinstance(value, _Compiled)
        for owner in owners
        for value in vars(owner).values()
    )


@contextmanager
def uncompiled():
    """MLX compiles nothing while the block runs, on any thread: it can be
    turned off for all only."""
    global _users, _was_on
    with _lock:
        if _users == 0:
            _was_on = _compiles()
            mx.disable_compile()
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0 and _was_on:
                mx.enable_compile()


def _compiles() -> bool:
    """Whether the user left compilation on: compiled functions run once."""
    runs = []
    once = mx.compile(lambda x: runs.append(1) or x + 1)
    once(mx.array(0)), once(mx.array(0))
    return len(runs) == 1
