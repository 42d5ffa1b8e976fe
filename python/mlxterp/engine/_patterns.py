"""Name patterns as the catalog of sites has them: `*` is any run of characters
but dots, `{3..7}` and `{a,b}` are choices."""

from __future__ import annotations

from .._core import expand_braces, glob_matches


def is_pattern(name: str) -> bool:
    return any(it in name for it in "*{}")


class compiled:
    """A pattern, to be tried on many names. Raises UsageError where braces do
    not match or a range is empty."""

    def __init__(self, pattern: str):
        forms = expand_braces(pattern)
        self._plain = {it for it in forms if "*" not in it}
        self._starred = [it for it in forms if "*" in it]

    def fullmatch(self, name: str) -> bool:
        return name in self._plain or any(
            glob_matches(it, name) for it in self._starred
        )
