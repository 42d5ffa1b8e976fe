"""What can go wrong, each kind also an exception Python knows.

`str()` of every error says what, where, with the values, and what to do.
"""


class MlxterpError(Exception):
    """The base of every error of this package."""


class UsageError(MlxterpError, ValueError):
    """A call that is wrong or not possible here."""


class UnknownNameError(MlxterpError, KeyError, AttributeError):
    """An unknown name; the message has the nearest known ones."""

    def __str__(self):  # KeyError would show the quoted repr
        return str(self.args[0]) if self.args else ""


class OutOfRangeError(MlxterpError, IndexError, ValueError):
    """An index, position, layer or token id that is out of range."""


class BadDataError(MlxterpError, ValueError):
    """A damaged file or value, or a NaN where none is allowed."""


class IoError(MlxterpError, OSError, ValueError):
    """A file or a server that cannot be read or written."""


class MissingFileError(IoError, FileNotFoundError):
    """A file that is not there."""
