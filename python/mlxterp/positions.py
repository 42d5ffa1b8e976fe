"""Positions in rows of different lengths: from the front, or from each row's
own last token."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from .errors import OutOfRangeError


def absolute(position: int, length: int, what: str = "the text") -> int:
    """`position` counted from the front; -1 is the last of `length`. Raises
    OutOfRangeError."""
    position = operator.index(position)
    if not -length <= position < length:
        raise OutOfRangeError(
            f"position {position} is out of range: {what} has {length} "
            f"token{'s' * (length != 1)}, "
            f"so {-length} to {length - 1}"
        )
    return position % length


def absolute_rows(positions: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Each of `positions` in every row, as [row][position]."""
    return [
        [absolute(position, length, f"row {row}") for position in positions]
        for row, length in enumerate(lengths)
    ]
