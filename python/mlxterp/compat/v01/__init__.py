"""What interventions of mlxterp 0.1 allowed, and mlxterp refuses or does
otherwise.

    from mlxterp.compat.v01 import interventions as iv
"""

from __future__ import annotations

from types import SimpleNamespace

import mlx.core as mx

from ...core import intervention as strict
from ...core.intervention import Intervention
from ...errors import UsageError


def replace_with(value: mx.array | float, align: str = "end") -> Intervention:
    """Puts a value in the site's place: a number everywhere, or an array that
    broadcasts.

    align: how an array with another number of positions is laid on the value
        (positions are axis 1, of a value of two axes axis 0): "end" on the last
        ones, "start" on the first, what is not covered stays; "strict" raises
        UsageError.
    """
    if align not in ("end", "start", "strict"):
        raise UsageError(
            f"replace_with: align is 'end', 'start' or 'strict', not {align!r}."
        )
    if isinstance(value, (int, float)):
        return strict.replace_with(value)

    def replaced(x: mx.array) -> mx.array:
        axis = 0 if x.ndim == 2 else 1
        where, given = (...,), value
        if value.ndim == x.ndim > 1 and value.shape[axis] not in (1, x.shape[axis]):
            if align == "strict":
                raise UsageError(
                    f"replace_with: {value.shape[axis]} positions for "
                    f"{x.shape[axis]}; align='end' or 'start' lays them on."
                )
            n = min(x.shape[axis], value.shape[axis])
            some = slice(-n, None) if align == "end" else slice(0, n)
            where = (slice(None),) * axis + (some,)
            given = value[where]
        y = mx.array(x)
        try:
            y[where] = mx.broadcast_to(given, x[where].shape).astype(x.dtype)
        except ValueError:
            raise UsageError(
                f"replace_with: shape {given.shape} does not broadcast to the "
                f"activation's {x[where].shape}."
            ) from None
        return y

    return Intervention(replaced)


def clamp(min_val: float | None = None, max_val: float | None = None) -> Intervention:
    """As `mlxterp.clamp`; without bounds it leaves the value as it is."""
    if min_val is None and max_val is None:
        return Intervention(lambda x: x)
    return strict.clamp(min_val, max_val)


def noise(std: float = 0.1, seed: int | None = None) -> Intervention:
    """As `mlxterp.noise`; a seed gives the same noise at every site."""
    if seed is None:
        return strict.noise(std)

    def noised(x: mx.array) -> mx.array:
        key = mx.random.key(seed)
        return x + (mx.random.normal(x.shape, key=key) * std).astype(x.dtype)

    return Intervention(noised)


interventions = SimpleNamespace(
    **vars(strict.interventions)
    | {"replace_with": replace_with, "clamp": clamp, "noise": noise}
)
