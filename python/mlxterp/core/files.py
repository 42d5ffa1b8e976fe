"""Files are written whole or not at all, and what is missing is told."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import IoError, UsageError


class MissingFileError(IoError, FileNotFoundError):
    """A file that is not there."""


def named(path: str | os.PathLike[str]) -> Path:
    """The path. Raises UsageError where the system has no such name: none at all,
    a zero byte, half of a surrogate pair."""
    text = os.fspath(path)
    try:
        whole = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        whole = False
    if not whole or not Path(text).name:
        raise UsageError(f"{text[:200]!r} names no file.")
    return Path(text)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path`, of the same suffix, for a file that takes its place
    when the block ends well and is deleted when it does not. Raises IoError
    where it cannot be written."""
    path = named(path)
    if os.path.exists(path) and not os.path.isfile(path):  # a device would be gone
        raise IoError(f"cannot write {path}: it is no regular file")
    draft = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        draft.open("xb").close()  # tells now that the folder is not writable
        yield draft
        os.replace(draft, path)
    except OSError as error:
        raise IoError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            draft.unlink()


def existing(path: Path) -> Path:
    """`path`, which is a file. Raises MissingFileError, UsageError."""
    if not os.path.isfile(named(path)):
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise MissingFileError(f"there is no file {shown[:400]}")
    return path
