"""The traces that are open on this thread, and what one of them holds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from .module_resolver import normalize_layer_key


class _Stacks(threading.local):
    def __init__(self):
        self.open: list[TraceContext] = []


class TraceContext:
    """What an open trace holds. Each thread has its own stack of them.

    Attributes:
        activations: key of every module output of the pass to its lazy value.
        interventions: the user's names to their functions.
        saved_values: what `.save()` kept, by saved name.
        trace: the `Trace` it belongs to, None for one made by hand.
    """

    _stacks = _Stacks()

    def __init__(self, trace: Any = None):
        self.trace = trace
        self.activations: Mapping[str, mx.array] = {}
        self.interventions: dict[str, Callable] = {}
        self.saved_values: dict[str, mx.array] = {}

    @classmethod
    def current(cls, model: Any = None) -> TraceContext | None:
        """The innermost open context of this thread, of `model` if given."""
        for context in reversed(cls._stacks.open):
            trace = context.trace
            if model is None or (trace and trace.interpretable_model is model):
                return context
        return None

    @classmethod
    def push(cls, ctx: TraceContext) -> None:
        """Makes `ctx` the innermost."""
        cls._stacks.open.append(ctx)

    @classmethod
    def pop(cls) -> None:
        """Closes the innermost, if there is one."""
        if cls._stacks.open:
            cls._stacks.open.pop()

    def save(self, name: str, value: mx.array) -> None:
        """Keeps a value beyond the trace."""
        self.saved_values[name] = value

    def should_intervene(self, name: str) -> bool:
        """Whether an intervention is registered for `name`, written in full,
        without `model.` or without `model.model.`."""
        return self._intervention(name) is not None

    def apply_intervention(self, name: str, value: mx.array) -> mx.array:
        """What the intervention for `name` makes of the value; the value
        itself where there is none."""
        fn = self._intervention(name)
        return value if fn is None else fn(value)

    def _intervention(self, name: str) -> Callable | None:
        short = name.removeprefix("model.")
        for spelling in (name, short, normalize_layer_key(name)):
            if spelling in self.interventions:
                return self.interventions[spelling]
        return None
