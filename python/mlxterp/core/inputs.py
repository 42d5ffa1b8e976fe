"""What users give a model, as its engine takes it."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from reprlib import repr
from typing import Any

import mlx.core as mx

from ..errors import OutOfRangeError, UsageError


def to_rows(inputs: Any, tokenizer: Any = None) -> list[list[int]] | mx.array:
    """Rows of token ids, or an mx.array with its batch axis.

    Text is encoded; one text, one list of ids or a 1-D array is one row. Raises
    UsageError for text without a tokenizer, for nothing at all, for ids that
    are no integers or negative, and for any other kind of input;
    OutOfRangeError for ids from 2**31 on.
    """
    if isinstance(inputs, mx.array):
        if inputs.ndim == 0 or inputs.size == 0:
            raise UsageError(f"Inputs of shape {inputs.shape} hold no tokens.")
        return inputs[None] if inputs.ndim == 1 else inputs
    if isinstance(inputs, str):
        return [_encoded(inputs, tokenizer)]
    if hasattr(inputs, "tolist") and not isinstance(inputs, (list, tuple)):
        if len(getattr(inputs, "shape", ())) > 2:  # no ids: images, features
            return mx.array(inputs)
        inputs = inputs.tolist()  # numpy and its like
    if not isinstance(inputs, (list, tuple)):
        raise UsageError(
            "Inputs are text, token ids, a list of either, or an mx.array, not "
            f"{type(inputs).__name__}."
        )
    if not inputs:
        raise UsageError("Inputs are empty: at least one token is needed.")
    if all(isinstance(it, str) for it in inputs):
        return [_encoded(text, tokenizer) for text in inputs]
    if all(isinstance(it, mx.array) for it in inputs):
        inputs = [it.tolist() for it in inputs]
    if any(isinstance(it, (list, tuple)) for it in inputs):
        return [_ids(row, f"row {i}") for i, row in enumerate(inputs)]
    return [_ids(inputs, "inputs")]


def _encoded(text: str, tokenizer: Any) -> list[int]:
    if tokenizer is None:
        raise UsageError(
            "Text needs a tokenizer: InterpretableModel(model, tokenizer), or "
            "give token ids."
        )
    ids = [int(i) for i in tokenizer.encode(text)]
    if not ids:
        raise UsageError(f"The text {text!r} has no tokens.")
    return ids


def _ids(row: Any, where: str) -> list[int]:
    if not isinstance(row, Sequence) or isinstance(row, str):
        raise UsageError(f"In the inputs, {where} is not a list of ids: {repr(row)}")
    if not row:
        raise UsageError(f"In the inputs, {where} is empty.")
    ids = []
    for it in row:
        try:
            ids.append(operator.index(it))
        except TypeError:
            raise UsageError(
                f"In the inputs, {where} holds {repr(it)}, which is not a token id."
            ) from None
    if min(ids) < 0:
        raise UsageError(f"In the inputs, {where} holds {min(ids)}, below 0.")
    if max(ids) >= 2**31:
        raise OutOfRangeError(
            f"In the inputs, {where} holds {max(ids)}, which is no token id: "
            "they end below 2**31."
        )
    return ids
