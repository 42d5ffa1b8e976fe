"""What is made sure of before a wrapped module runs on some inputs."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn

from ..errors import OutOfRangeError, UsageError
from ._patches import suspended
from ._random import random_state, random_state_kept

EMBEDDINGS = (nn.Embedding, nn.QuantizedEmbedding)


def padded(
    inputs: list[list[int]] | mx.array,
) -> tuple[mx.array, list[int], tuple[int, int] | None]:
    """(array, lengths, (lowest, highest) if known): rows of ids behind which 0
    stands, int32 [batch, pos]; an array stays as it is. Raises UsageError for
    no rows or an empty one."""
    if isinstance(inputs, mx.array):
        many = inputs.ndim > 1
        return inputs, [inputs.shape[1]] * inputs.shape[0] if many else [1], None
    lengths = [len(row) for row in inputs]
    if not lengths or 0 in lengths:
        raise UsageError("Inputs must hold at least one token in every row.")
    longest = max(lengths)
    ends = min(0, *map(min, inputs)), max(map(max, inputs))
    rows = [[*row, *[0] * (longest - len(row))] for row in inputs]
    return mx.array(rows), lengths, ends


def check_ids(ids: mx.array, module: nn.Module, name: str, ends=None) -> None:
    """That an embedding has a row for each id: MLX would read whatever lies
    beyond. Evaluates the ids, unless their `ends` are known. Raises UsageError,
    OutOfRangeError."""
    if not mx.issubdtype(ids.dtype, mx.integer):
        raise UsageError(
            f"'{name}' takes token ids, which are integers, not an array of "
            f"{str(ids.dtype).rpartition('.')[2]} {tuple(ids.shape)}."
        )
    rows = module.weight.shape[0]
    if ends is None and ids.size:
        ends = evaluated(lambda: (ids.min().item(), ids.max().item()))
    for end in ends or ():
        if not 0 <= end < rows:
            raise OutOfRangeError(
                f"{end} is not among the {rows} ids of '{name}', 0 to {rows - 1}."
            )


def evaluated(values: Callable):
    """What `values` gives; None inside mx.compile and mx.vmap, where nothing
    can be evaluated."""
    try:
        return values()
    except ValueError as error:
        if "function transformations" in str(error):
            return None
        raise


class ChecksIds:
    """A pass that only looks at ids: for the plain model."""

    def __init__(self, name_of: Callable[[nn.Module], str]):
        self._name_of = name_of

    def call(self, module, original, args, kwargs):
        if isinstance(module, EMBEDDINGS) and args and type(args[0]) is mx.array:
            check_ids(args[0], module, self._name_of(module))
        return original(module, *args, **kwargs)

    def attend(self, original, *args, **kwargs):
        return original(*args, **kwargs)

    soften = attend


def sees_ahead(run: Callable, rows: list[list[int]]) -> str:
    """Why rows of different length may not share a batch, empty where they
    may: nothing at a position must depend on what stands behind it, where the
    padding is. Tried out: two runs of the longest row's first tokens that
    differ in the last. Evaluates. `run` gives the output of some inputs.
    Raises UsageError where nothing can be evaluated."""
    row = max(rows, key=len)[:4]
    other = next((i for r in rows for i in (*r, 0) if i != row[-1]), 1)
    found, start = [], random_state()
    for last in (row[-1], other):
        with suspended(), random_state_kept(start=start):
            found.append(run(mx.array([[*row[:-1], last]])))
    if found[0] is None or found[0].shape[:2] != (1, len(row)):
        return "does not return a value for each position"
    one, two = (y[:, :-1].astype(mx.float32) for y in found)
    precise = found[0].dtype == mx.float32
    most = mx.abs(one).max() * (1e-5 if precise else 1e-2)
    same = evaluated(lambda: (mx.abs(one - two).max() <= most).item())
    if same is None:
        raise UsageError(
            "Inside mx.compile and mx.vmap rows of different length go into a "
            "batch only if the model has run such a batch outside before."
        )
    return "" if same else "attends to later positions"
