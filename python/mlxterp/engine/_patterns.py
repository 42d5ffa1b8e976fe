"""Name patterns: `*` is any run of characters but dots, `{3..7}` and `{a,b}`
are choices."""

from __future__ import annotations

import re

from ..errors import UsageError

_MOST = 100_000  # numbers in one {a..b}


def is_pattern(name: str) -> bool:
    return any(it in name for it in "*{}")


def compiled(pattern: str) -> re.Pattern:
    """The regular expression of a whole name. Raises UsageError where braces
    do not match or a range is empty."""
    parts = []
    for piece in re.split(r"(\*|\{[^{}]*\})", pattern):
        if piece == "*":
            parts.append("[^.]*")
        elif piece.startswith("{") and piece.endswith("}"):
            parts.append(_choice(piece[1:-1], pattern))
        elif "{" in piece or "}" in piece:
            raise UsageError(f"'{pattern}': a brace without its other half.")
        else:
            parts.append(re.escape(piece))
    return re.compile("".join(parts))


def _choice(inside: str, pattern: str) -> str:
    ends = re.fullmatch(r"(\d+)\.\.(\d+)", inside)
    if not ends:
        return "(?:" + "|".join(map(re.escape, inside.split(","))) + ")"
    first, last = int(ends[1]), int(ends[2])
    if not 0 <= last - first < _MOST:
        raise UsageError(
            f"'{pattern}': {{{inside}}} must go from less to more, over at "
            f"most {_MOST} numbers."
        )
    return "(?:" + "|".join(map(str, range(first, last + 1))) + ")"
