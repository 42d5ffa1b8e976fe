"""Files are written whole or not at all, and a missing one is an error."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import IoError


class MissingFileError(IoError, FileNotFoundError):
    """A file that is not there."""


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path beside `path`, of the same suffix, for a file that takes its place
    when the block ends well and is deleted when it does not. Raises IoError
    where it cannot be written."""
    path = Path(path)
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
    """`path`, which is a file. Raises MissingFileError."""
    if not path.is_file():
        shown = str(path).encode("utf-8", "backslashreplace").decode()
        raise MissingFileError(f"there is no file {shown}")
    return path
