"""What the functions over the C++ engine share: its model, its inputs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import mlx.core as mx

from .. import _core
from ..core.inputs import to_rows
from ..engine._threads import leave_clean
from ..errors import UsageError
from ..view.page import HtmlPage
from .engine_model import end_ids, engine_model, generating_model
from .metrics import as_metric


def native(model, what: str, edits: Mapping | None = None) -> _core.Model:
    """The C++ model behind `model`, with its edits and these. Raises UsageError
    where it is wrapped."""
    leave_clean()
    inner = _inner(model)
    if inner is None:
        raise UsageError(
            f"{what} needs a model that mlxterp loaded itself, as in "
            "InterpretableModel('path or hub id'); this one wraps "
            f"{type(getattr(model, 'model', model)).__name__}"
        )
    standing = [*getattr(model, "standing", ()), *(edits or {}).items()]
    return inner.edited(standing) if standing else inner


def by_passes(
    model, what: str, edits: Mapping | None = None, sites: Sequence[str] = ()
) -> _core.Model:
    """The same; of any other model what its engine runs, as C++ sees it, which
    serves where plain passes do. `sites`: what is asked for, by its name in each
    layer or its whole name."""
    if _inner(model) is not None or not hasattr(model, "engine"):
        return native(model, what, edits)
    return engine_model(model.edited(edits) if edits else model, sites)


def generating(
    model, asked: Sequence[str]
) -> tuple[_core.Model, dict[str, str], list[int]]:
    """What generates the text of a model, what the sites `asked` are called there,
    and the ids that end a text beside those it knows."""
    if _inner(model) is not None:
        return native(model, "generate"), {site: site for site in asked}, []
    leave_clean()
    return *generating_model(model, asked), end_ids(model.tokenizer)


def _inner(model) -> _core.Model | None:
    if not isinstance(model, _core.Model):
        model = getattr(getattr(model, "engine", model), "model", None)
    return model if isinstance(model, _core.Model) else None


def inputs(model, prompts) -> list | mx.array:
    """A prompt or several as C++ takes them: rows of ids, as the model's own
    tokenizer has it, or an array. Raises UsageError."""
    core = isinstance(model, _core.Model) and model.has_tokenizer
    return to_rows(prompts, model if core else getattr(model, "tokenizer", None))


#: Of the analyses that make do with plain passes.
_BY_PASSES = (
    _core.PatchOptions,
    _core.AblateOptions,
    _core.LensOptions,
    _core.TunedLensOptions,
    _core.CausalTraceOptions,
    _core.PathPatchOptions,
    _core.AttributeOptions,
    _core.CollectOptions,
    _core.StoreOptions,
    _core.HeadOptions,
    _core.AblationOptions,
    _core.SteerTrainOptions,
    _core.SteerSweepOptions,
)


#: Arguments that are a prompt or several.
_PROMPTS = (
    "clean",
    "corrupt",
    "prompt",
    "prompts",
    "data",
    "positive",
    "negative",
    "neutral",
)

#: What of a model an analysis is made of.
_CHOSEN = ("layers", "positions", "heads", "neurons")


def asked(
    what: str, kind: type, given: dict, sites: Sequence[str] = ()
) -> tuple[_core.Model, Any]:
    """The C++ model of a function's arguments `given`, and its options made of
    the others, which are called as their fields; None leaves a field as it is.
    Progress is told to the function given, or shown by a bar."""
    model, edits = given["model"], given.get("interventions")
    if kind in _BY_PASSES:
        named = given.get("sites") or given.get("site") or ()
        named = [named] if isinstance(named, str) else named
        inner = by_passes(model, what, edits, [*sites, *named])
    else:
        inner = native(model, what, edits)
    made = {"progress": given.get("progress") or Bar()}
    for name, value in given.items():
        if value is None or name in ("model", "interventions", "progress"):
            continue
        if name in _PROMPTS:
            value = inputs(model, value)
        elif name == "track" and isinstance(value, str):
            value = inner.single_token(value)
        elif name == "heads" and _spelled(value):
            layers, value = _core.parse_head_choice(_spelled(value))
            if layers and given.get("layers") is not None:
                text = f"{what}: heads={given['heads']!r} names layers, and so does "
                raise UsageError(text + "`layers`; leave one of them out")
            if layers:
                made["layers"] = layers
        elif name in _CHOSEN and hasattr(value, "__len__") and not len(value):
            text = f"{what}: {name}={value!r} chooses none; leave it out for all"
            raise UsageError(text)
        elif name == "metric":
            named = (made[n] for n in ("clean", "prompts", "prompt") if n in made)
            rows = next(named, None)
            value = as_metric(value, inner, rows)
        made[name] = value
    return inner, kind(**made)


def _spelled(heads) -> list[str]:
    """Heads as people write them, "L23H3"; empty where they are numbers."""
    heads = [heads] if isinstance(heads, str) else heads
    texts = isinstance(heads, Sequence) and any(isinstance(it, str) for it in heads)
    return [str(it) for it in heads] if texts else []


class Report:
    """A result's JSON and page, made when they are asked for, or copied."""

    def __init__(self, json: Callable[[], str], html: Callable[[], str]):
        self.json, self.html = cache(json), cache(html)

    def __reduce__(self):
        return _told, (self.json(), self.html())


def _told(json: str, html: str) -> Report:
    return Report(lambda: json, lambda: html)


class Reported:
    """A result that has a report."""

    _report: Report | None

    def to_json(self) -> str:
        """What the command of that name answers with --json (docs/json.md).
        Raises UsageError for an estimate of `attribute`, which has none."""
        return self._told().json()

    def to_html(self) -> str:
        """One page, which loads nothing. Raises as `to_json`."""
        return self._told().html()

    def _told(self) -> Report:
        if self._report is None:
            raise UsageError("an estimate has no page; patch() has one of the site")
        return self._report

    def _repr_html_(self) -> str | None:
        return None if self._report is None else HtmlPage(self.to_html())._repr_html_()


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
        what, _, more = what.partition(", ")  # what changes: how fast, say
        line = f"\r{what:22.22} [{'#' * full:30}] {done:4.0%} {more}\x1b[K"
        sys.stderr.write(line)
        sys.stderr.flush()
