"""TransformerLens' parts of a model: `model.blocks[3].attn.W_Q`, `model.unembed`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlx.core as mx

from ...errors import OutOfRangeError, UsageError
from .norms import norm_gain_of, norm_module


class Part:
    """The weights (`W_Q`, `b_U`) and hook points (`hook_z`) of one part."""

    def __init__(self, model: Any, path: str, layer: int | None = None):
        self._model, self._path, self._layer = model, path, layer

    def __getattr__(self, name: str):
        if name[:2] in ("W_", "b_"):
            all_layers = getattr(self._model, name)
            return all_layers if self._layer is None else all_layers[self._layer]
        full = f"{self._path}.{name}" if self._path else name
        if name.startswith("hook_"):
            return self._model.hook_point(full)
        raise AttributeError(
            f"'{full}': a part has W_*, b_* and hook_*; its modules are "
            "model.named_modules(), their parameters model.parameters()"
        )

    def __repr__(self) -> str:
        return f"Part({self._path})"


class NormPart(Part):
    """A norm: `w`, `b`, its hook points, and itself as a function."""

    @property
    def w(self) -> mx.array:
        """Its gain [d_model], as it acts."""
        return norm_gain_of(self._model, self._path)[0]

    @property
    def b(self) -> mx.array:
        """Its bias [d_model]; zeros where it has none."""
        return norm_gain_of(self._model, self._path)[1]

    def __call__(self, x: mx.array) -> mx.array:
        """The norm with its gain, of [..., d_model]."""
        return norm_module(self._model, self._path)(x)


class Ends(Part):
    """The embedding or the unembedding, as a function too."""

    def __call__(self, x: mx.array) -> mx.array:
        if self._path == "embed":
            return self._model.W_E[x]
        if self._path == "unembed":
            return x @ self._model.W_U + self._model.b_U
        raise UsageError(f"'{self._path}' is no function here: its rows are W_pos")


class Block(Part):
    """A layer: `attn`, `mlp`, `ln1`, `ln2`."""

    def __getattr__(self, name: str):
        if name in ("attn", "mlp"):
            return Part(self._model, f"{self._path}.{name}", self._layer)
        if name in ("ln1", "ln2"):
            return NormPart(self._model, f"{self._path}.{name}", self._layer)
        return super().__getattr__(name)


class Blocks:
    """The layers, negative numbers from the end."""

    def __init__(self, model: Any):
        self._model = model

    def __len__(self) -> int:
        return len(self._model.layers)

    def __getitem__(self, i: int) -> Block:
        n = len(self)
        if not -n <= i < n:
            raise OutOfRangeError(f"there are {n} layers, no layer {i}")
        return Block(self._model, f"blocks.{i % n}", i % n)

    def __iter__(self) -> Iterator[Block]:
        return (self[i] for i in range(len(self)))
