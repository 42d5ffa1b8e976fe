"""Activations of many prompts, in batches."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .. import _core
from ..errors import UsageError
from ._native import asked, inputs, native
from .activation_store import ActivationStore


@dataclass
class Collected:
    """`values`: canonical name of each site to [row, ...], a row for each
    position kept, in the order of the prompts; `lengths`: rows of each prompt.
    """

    values: dict[str, mx.array]
    lengths: list[int]

    def __repr__(self) -> str:
        shapes = [f"{site} {value.shape}" for site, value in self.values.items()]
        return f"Collected({', '.join(shapes)}; {len(self.lengths)} prompts)"


def collect(
    model,
    prompts,
    sites: str | list[str],
    positions: str = "all",
    batch_size: int = 8,
    interventions: dict | None = None,
    progress=None,
    store: str | os.PathLike[str] | None = None,
    **store_options: Any,
) -> Collected | ActivationStore:
    """Runs all prompts, `batch_size` at a time, and keeps the sites named
    (patterns too) at "all" real positions or the "last" of each prompt; padding
    is left out. Layers behind the last site are not run. Memory is what is kept
    and one batch. Evaluates. Sites of layout [batch, head, dest, src] are
    refused with UsageError.

    With `store`, a folder, the rows go to files there and memory is bounded; an
    ActivationStore reads them. `prompts` may then be a pathlib.Path: a text
    file, a JSONL file (a document a line, field "text") or a folder of .txt and
    .jsonl files. Options of a store:

        length: Tokens of a prompt, into which the documents of a file are cut
            (512, or the model's context); prompts in memory are not cut.
        tokens: End after so many.
        dtype: Of floating-point values in the files (mx.float16, ...).
        shard_rows: Rows of a file (as many as take 256 MB).
        resume: Go on with what an interrupted run left in the folder. A block of
            its rows is made again and has to come out the same.

    Raises UsageError where the folder holds something else or a store of other
    settings, which are named, or of a model or edits that make other rows;
    BadDataError for values that are NaN or infinite, or broken files of a store;
    IoError where the disk is full: what was written whole is kept.
    """
    sites = [sites] if isinstance(sites, str) else list(sites)
    given = {
        "model": model,
        "interventions": interventions,
        "progress": progress,
        "positions": positions,
        "batch_size": batch_size,
    }
    if store is None:
        if store_options or isinstance(prompts, os.PathLike):
            what = ", ".join(store_options) or "a file"
            raise UsageError(f"collect(): {what} needs store=FOLDER")
        inner, chosen = asked("collect()", _core.CollectOptions, given, sites)
        values, lengths = _core.collect(inner, inputs(model, prompts), sites, chosen)
        return Collected(dict(values), lengths)

    edits = [*getattr(model, "standing", ()), *(interventions or {}).items()]
    runs = getattr(getattr(model, "engine", model), "model", None)
    given["name"] = str(getattr(runs, "path", ""))  # of what mlxterp loaded
    # Not where it lies in memory: a later process resumes.
    given["edits"] = [
        re.sub(r" at 0x[0-9a-fA-F]+", "", f"{site}={edit!r}") for site, edit in edits
    ]
    given |= store_options
    folder = os.fspath(store)
    if isinstance(prompts, os.PathLike):
        native(model, "collect() of a file")
        inner, chosen = asked("collect()", _core.StoreOptions, given, sites)
        text = os.fspath(prompts)
        _core.store_text_activations(inner, text, sites, folder, chosen)
    else:
        inner, chosen = asked("collect()", _core.StoreOptions, given, sites)
        rows = inputs(model, prompts)
        _core.store_activations(inner, rows, sites, folder, chosen)
    return ActivationStore(folder)
