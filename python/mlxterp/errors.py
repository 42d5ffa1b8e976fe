"""What can go wrong, each kind also an exception Python knows.

`str()` of every error says what, where, with the values, and what to do.
"""


class MlxterpError(Exception):
    """The base of every error of this package."""


class UsageError(MlxterpError, ValueError):
    """Something was asked for that makes no sense here."""


class UnknownNameError(MlxterpError, KeyError, AttributeError):
    """A name that means nothing, with the nearest that do."""

    def __str__(self):  # KeyError would show the quoted repr
        return str(self.args[0]) if self.args else ""


class OutOfRangeError(MlxterpError, IndexError, ValueError):
    """An index, position, layer or token id beyond what there is."""


class BadDataError(MlxterpError, ValueError):
    """A file or a value that is damaged, or a NaN where none may be."""


class IoError(MlxterpError, OSError, ValueError):
    """A file or a server that cannot be read or written."""


class MissingFileError(IoError, FileNotFoundError):
    """A file that is not there."""
