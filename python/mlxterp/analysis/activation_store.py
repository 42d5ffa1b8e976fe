"""Activations on disk: a folder that `collect(..., store=...)` or the command's
`collect` wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from .. import _core
from ..errors import UsageError


@dataclass
class StoredBatch:
    """`rows`: which of the store's rows these are; `values`: name of each tensor
    to [row, ...]."""

    rows: list[int]
    values: dict[str, mx.array]


class ActivationStore:
    """Rows of a folder of safetensors files, read where they are asked for.

    A row is a position of a prompt. Besides the sites, `tokens` (its id),
    `positions` (its place in the prompt that ran) and `documents` can be read,
    int32 [row]. `len(store)` is the number of rows.

    Attributes:
        manifest: What and how it was made, a dict: model, digests of weights,
            tokenizer and text, sites, length, batch size, dtype, ...
        tensors: Name to the shape of one row, of the sites and the three others.

    Raises IoError where there is no store, UsageError where it is not complete,
    BadDataError where a file is broken.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = os.fspath(folder)
        self._store = _core.ActivationStore.open(self.folder)
        self.manifest: dict = json.loads(self._store.manifest)
        self.tensors = {name: tuple(shape) for name, shape, _ in self._store.tensors}

    @property
    def sites(self) -> list[str]:
        """The names of the sites."""
        return list(self.manifest["sites"])

    def __len__(self) -> int:
        return self._store.rows

    def __repr__(self) -> str:
        sites = ", ".join(f"{it} {self.tensors[it]}" for it in self.sites)
        return f"ActivationStore({self.folder!r}: {len(self)} rows of {sites})"

    def read(self, name: str, start: int = 0, stop: int | None = None) -> mx.array:
        """Rows `start` to `stop` (exclusive, counted from the end where they are
        negative; None: to the end) of a tensor, [row, ...] in the dtype of the
        files; `numpy.array` takes it, bfloat16 after `.astype(mx.float32)`.
        Raises UnknownNameError."""
        start, stop, _ = slice(start, stop).indices(len(self))
        return self._store.read(name, start, max(start, stop))

    def __getitem__(self, name: str) -> mx.array:
        """All rows of a tensor."""
        if not isinstance(name, str):
            raise UsageError(f"store[{name!r}]: give a name; read() takes rows")
        return self.read(name)

    def batches(
        self,
        names: str | Sequence[str] = (),
        batch_size: int = 4096,
        seed: int = 0,
        buffer_rows: int = 65536,
    ) -> Iterator[StoredBatch]:
        """Every row once, in random order: short runs of neighbours come from
        all files into a buffer of `buffer_rows`, of which random rows are taken.
        The same seed gives the same order. The last batch may have fewer rows.
        `names`: tensors; none: all. Raises UnknownNameError, UsageError."""
        names = [names] if isinstance(names, str) else list(names)
        buffer_rows = max(buffer_rows, batch_size)
        rows = _core.ShuffledRows(self._store, names, batch_size, buffer_rows, seed)
        return self._drawn(rows)

    @staticmethod
    def _drawn(rows: _core.ShuffledRows) -> Iterator[StoredBatch]:
        while (found := rows.next()) is not None:
            yield StoredBatch(found[0], dict(found[1]))
