"""Packages that only some functions need are imported when those run."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(name: str, install: str = '"mlxterp[viz]"') -> ModuleType:
    """The module `name`. Raises ImportError with what to install."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f"{package} is needed here and cannot be imported ({error}); "
            f"install it with: pip install {install}"
        ) from error


def available(name: str) -> bool:
    """Whether `name` can be imported."""
    try:
        return bool(require(name))
    except ImportError:
        return False
