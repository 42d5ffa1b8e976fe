"""Tasks whose prompts are made in code: pairs of a clean and a corrupted
prompt, and what to measure of them.

    task = mlxterp.tasks.make_task(model, "ioi", pairs=8)
    sweep = mlxterp.patch(model, task.clean, task.corrupt, task.metric)
"""

from __future__ import annotations

from dataclasses import dataclass

from .. import _core
from ._native import native


def task_list() -> dict[str, str]:
    """Every task and a sentence about it, with the paper."""
    return dict(_core.task_list())


@dataclass
class Task:
    """Pairs of prompts, equally long, as ids."""

    name: str
    clean: list[list[int]]
    corrupt: list[list[int]]
    metric: _core.Metric  #: With each pair's own tokens.
    pairs: list[_core.TaskPair]  #: With text, answers and foils.
    inner: _core.Task


def make_task(model, name: str, pairs: int = 8, seed: int = 0) -> Task:
    """Draws pairs, the same for a seed on every machine. Raises
    UnknownNameError with the tasks there are, UsageError where the tokenizer
    does not allow so many pairs."""
    task = _core.make_task(native(model, "make_task()"), name, pairs, seed)
    return Task(
        task.name,
        [p.clean_ids for p in task.pairs],
        [p.corrupt_ids for p in task.pairs],
        task.metric(),
        task.pairs,
        task,
    )


def score(model, task: Task) -> _core.TaskScores:
    """How well the model does: `clean` and `corrupt` of every pair, their means,
    and `accuracy`, the part of clean prompts above zero."""
    return _core.score_task(native(model, "score()"), task.inner)
