"""The traces that are open, on each thread its own."""

from __future__ import annotations

import threading
from typing import Any


class _Open(threading.local):
    def __init__(self):
        self.traces: list[Any] = []


class TraceContext:
    """The stack of this thread's open traces, the innermost last."""

    _open = _Open()

    @classmethod
    def current(cls, model: Any = None) -> Any:
        """The innermost open Trace, of `model` if given, or None."""
        for trace in reversed(cls._open.traces):
            if model is None or trace.interpretable_model is model:
                return trace
        return None

    @classmethod
    def push(cls, trace: Any) -> None:
        """Makes `trace` the innermost."""
        cls._open.traces.append(trace)

    @classmethod
    def pop(cls, trace: Any = None) -> None:
        """Takes out a trace, or the innermost."""
        traces = cls._open.traces
        if traces:
            traces.remove(trace or traces[-1])
