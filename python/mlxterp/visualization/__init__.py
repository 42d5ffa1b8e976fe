"""Attention patterns: read, drawn, explored and searched for known heads.

Drawing needs matplotlib or plotly (`pip install "mlxterp[viz]"`), the
interactive page nothing.
"""

from . import attention, interactive, patterns
from .attention import *  # noqa: F403
from .interactive import *  # noqa: F403
from .patterns import *  # noqa: F403

__all__ = [*attention.__all__, *interactive.__all__, *patterns.__all__]
