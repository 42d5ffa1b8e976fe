"""What the functions over the C++ engine share: its model, its inputs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import mlx.core as mx

from . import _core
from .errors import UsageError
from .inputs import to_rows


def native(model, what: str) -> _core.Model:
    """The C++ model behind `model`. Raises UsageError where it is wrapped."""
    if isinstance(model, _core.Model):
        return model
    inner = getattr(getattr(model, "engine", model), "model", None)
    if isinstance(inner, _core.Model):
        return inner
    raise UsageError(
        f"{what} needs a model that mlxterp loaded itself, as in "
        "InterpretableModel('path or hub id'); this one wraps "
        f"{type(getattr(model, 'model', model)).__name__}"
    )


def inputs(prompts) -> list | mx.array:
    """A prompt or several as C++ takes them: texts, which it encodes itself,
    rows of ids or an array. Raises UsageError."""
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, (list, tuple)) and prompts:
        if all(isinstance(p, str) for p in prompts):
            return list(prompts)
    return to_rows(prompts)


def several(values) -> list:
    """One value or several as a list; None is all of them: an empty list."""
    if values is None:
        return []
    return [values] if isinstance(values, int) else list(values)


class Bar:
    """A progress bar on stderr for what takes longer than a second, on a
    terminal only. Called as `bar(what, done)` with `done` from 0 to 1."""

    def __init__(self):
        self._begin = time.monotonic()
        self._shown = False

    def __call__(self, what: str, done: float) -> None:
        if not sys.stderr.isatty() or time.monotonic() - self._begin < 1:
            return
        if done >= 1:  # what is drawn goes when the work is done
            if self._shown:
                sys.stderr.write("\r\x1b[K")
            return
        self._shown = True
        full = int(30 * done)
        sys.stderr.write(f"\r{what:20.20} [{'#' * full:30}] {done:4.0%}")
        sys.stderr.flush()


def told(progress: Callable[[str, float], None] | None):
    """The function given, or a bar."""
    return progress if progress is not None else Bar()
