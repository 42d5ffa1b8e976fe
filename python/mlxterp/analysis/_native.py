"""What the functions over the C++ engine share: its model, its inputs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import cache

import mlx.core as mx

from .. import _core
from ..core.inputs import to_rows
from ..engine._threads import leave_clean
from ..errors import MlxterpError, UsageError
from .metrics import as_metric


def native(model, what: str) -> _core.Model:
    """The C++ model behind `model`. Raises UsageError where it is wrapped."""
    leave_clean()
    if isinstance(model, _core.Model):
        return model
    inner = getattr(getattr(model, "engine", model), "model", None)
    if isinstance(inner, _core.Model):
        standing = getattr(model, "standing", None)
        return inner.edited(standing) if standing else inner
    raise UsageError(
        f"{what} needs a model that mlxterp loaded itself, as in "
        "InterpretableModel('path or hub id'); this one wraps "
        f"{type(getattr(model, 'model', model)).__name__}"
    )


def inputs(model, prompts) -> list | mx.array:
    """A prompt or several as C++ takes them: rows of ids, as the model's own
    tokenizer has it, or an array; texts for a `_core.Model`. Raises
    UsageError."""
    if (tokenizer := getattr(model, "tokenizer", None)) is not None:
        return to_rows(prompts, tokenizer)
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, (list, tuple)) and prompts:
        if all(isinstance(p, str) for p in prompts):
            return list(prompts)
    return to_rows(prompts)


def labels(model: _core.Model, ids: list[int]) -> list[str]:
    """One string a token; of an id that has none, and without a tokenizer, its
    number: `#76`."""
    if not model.has_tokenizer:
        return [f"#{i}" for i in ids]
    try:
        return model.labels(ids)
    except MlxterpError:
        if len(ids) == 1:
            return [f"#{ids[0]}"]
        return [labels(model, [i])[0] for i in ids]


def several(values) -> list:
    """One value or several as a list; None is all of them: an empty list."""
    if values is None:
        return []
    return [values] if isinstance(values, (int, str)) else list(values)


def options(model, kind, progress=None, **fields):
    """An option struct of C++'s with these fields: one of several becomes a list,
    a text the metric it stands for, None leaves a field as it is. Progress
    is told to the function given, or shown by a bar."""
    usual, made = kind(), {"progress": progress or Bar()}
    for name, value in fields.items():
        if value is None:
            continue
        if name in ("clean", "corrupt", "prompt", "prompts", "data"):
            value = inputs(model, value)
        elif name == "edits":
            value = list(value.items())
        elif isinstance(getattr(usual, name, None), list):
            value = several(value)
        elif name == "metric":
            value = as_metric(value, native(model, "a metric"))
        made[name] = value
    return kind(**made)


class Report:
    """A result's JSON and page, made when they are asked for, or copied."""

    def __init__(self, json: Callable[[], str], html: Callable[[], str]):
        self.json, self.html = cache(json), cache(html)

    def __reduce__(self):
        return _told, (self.json(), self.html())


def _told(json: str, html: str) -> Report:
    return Report(lambda: json, lambda: html)


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
