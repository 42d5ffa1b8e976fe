"""Tasks with generated prompts: pairs of a clean and a corrupted prompt, and a
metric for them.

    task = mlxterp.tasks.make_task(model, "ioi", pairs=8)
    sweep = mlxterp.patch(model, task.clean, task.corrupt, task.metric)
"""

from __future__ import annotations

import os
import warnings

from .. import _core
from .._core import Task
from ._native import by_passes


def task_list() -> dict[str, str]:
    """Every task and a sentence about it, with the paper."""
    return dict(_core.task_list())


def make_task(model, name: str, pairs: int = 8, seed: int = 0) -> Task:
    """Draws pairs, equally long, the same for a seed on every machine: `clean`
    and `corrupt` ids, a `metric` with each pair's own tokens, and `pairs` with
    text, answers and foils. Raises UnknownNameError with the tasks there are,
    UsageError where the tokenizer does not allow so many pairs."""
    return _core.make_task(by_passes(model, "make_task()"), name, pairs, seed)


def read_task(model, path: str | os.PathLike[str]) -> Task:
    """A task of your own from a JSON file, as `mlxterp tasks --json` answers:
    {"pairs": [{"clean": text, "corrupt": text, "answers": [" Mary"], "foils":
    [" John"]}, ...]}; `clean_ids` and `corrupt_ids` count where they are there.
    Warns of tokens that are probably not meant. Raises BadDataError,
    UnknownNameError for an answer that is not one token, FileNotFoundError."""
    with open(path, encoding="utf-8") as file:
        text = file.read()
    inner = by_passes(model, "read_task()")
    return _core.parse_task(inner, text, os.fspath(path), warnings.warn)


def score(model, task: Task) -> _core.TaskScores:
    """How well the model does: `clean` and `corrupt` of every pair, their means,
    and `accuracy`, the fraction of clean prompts above zero."""
    return _core.score_task(by_passes(model, "score()"), task)
