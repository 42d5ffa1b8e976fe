"""Interventions: functions from an activation to its replacement.

All of these keep the activation's shape and dtype, also where a float32
vector is added to a bfloat16 activation. Any function of one mx.array serves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from ..engine._edits import shown
from ..errors import OutOfRangeError, UsageError

Intervention = Callable[[mx.array], mx.array]
Indices = int | Sequence[int]


def zero_out(x: mx.array) -> mx.array:
    """Zeros."""
    return mx.zeros_like(x)


def scale(factor: float) -> Intervention:
    """Multiplies by a constant."""

    def scaled(x: mx.array) -> mx.array:
        return (x * factor).astype(x.dtype)

    return scaled


def add_vector(vector: mx.array) -> Intervention:
    """Adds a vector, such as a steering direction; any shape that broadcasts
    to the activation's, else UsageError."""

    def added(x: mx.array) -> mx.array:
        return x + _broadcast(vector, x, "add_vector")

    return added


def replace_with(value: mx.array | float, align: str = "end") -> Intervention:
    """Puts a value in the activation's place: a number everywhere, or an
    array that broadcasts.

    align: how an array with another number of positions is laid on the
        activation (positions are axis 1, of a 2-D array axis 0): "end" on the
        last ones, "start" on the first, what is not covered stays; "strict"
        raises UsageError.
    """
    if align not in ("end", "start", "strict"):
        raise UsageError(
            f"replace_with: align is 'end', 'start' or 'strict', not {align!r}."
        )

    def replaced(x: mx.array) -> mx.array:
        if isinstance(value, (int, float)):
            return mx.full(x.shape, value, dtype=x.dtype)
        axis = 0 if x.ndim == 2 else 1
        aligned = value.ndim == x.ndim > 1 and value.shape[axis] != 1
        if aligned and value.shape[axis] != x.shape[axis]:
            if align == "strict":
                raise UsageError(
                    f"replace_with: {value.shape[axis]} positions for "
                    f"{x.shape[axis]}; align='end' or 'start' lays them on."
                )
            return _laid_on(x, value, axis, align)
        return _broadcast(value, x, "replace_with")

    return replaced


def clamp(min_val: float | None = None, max_val: float | None = None) -> Intervention:
    """Keeps values between bounds; None is no bound."""
    if min_val is not None and max_val is not None and min_val > max_val:
        raise UsageError(f"clamp: min_val {min_val} is above max_val {max_val}.")

    def clamped(x: mx.array) -> mx.array:
        y = x
        if min_val is not None:
            y = mx.maximum(y, min_val)
        if max_val is not None:
            y = mx.minimum(y, max_val)
        return y.astype(x.dtype)

    return clamped


def noise(std: float = 0.1, seed: int | None = None) -> Intervention:
    """Adds Gaussian noise of standard deviation `std`: with a seed the same
    each time, else drawn from MLX's random state."""

    def noised(x: mx.array) -> mx.array:
        key = None if seed is None else mx.random.key(seed)
        return x + (mx.random.normal(x.shape, key=key) * std).astype(x.dtype)

    return noised


class InterventionComposer:
    """Several interventions as one, the first first:

        InterventionComposer().add(scale(0.5)).add(add_vector(v)).build()
        InterventionComposer(scale(0.5), add_vector(v))

    It is itself an intervention, so `build()` may be left out.
    """

    def __init__(self, *interventions: Intervention):
        self.interventions: list[Intervention] = list(interventions)

    def add(self, fn: Intervention) -> InterventionComposer:
        """Appends one; returns itself."""
        self.interventions.append(fn)
        return self

    def build(self) -> Intervention:
        """The interventions added so far as one."""
        return InterventionComposer(*self.interventions)

    def for_site(self, site: str) -> Intervention:
        """The same with every part made for a site."""
        parts = (for_site(fn, site) for fn in self.interventions)
        return InterventionComposer(*parts)

    def __call__(self, x: mx.array) -> mx.array:
        for fn in self.interventions:
            x = fn(x)
        return x


class _Part:
    """An intervention on some indices of one axis."""

    def __init__(self, what: str, indices: Indices, fn: Intervention, axis: int):
        self.what, self.fn, self.axis = what, fn, axis
        self.indices = [indices] if isinstance(indices, int) else list(indices)

    def __call__(self, x: mx.array) -> mx.array:
        axis = self.axis if self.axis >= 0 else x.ndim + self.axis
        if axis >= x.ndim:
            raise UsageError(
                f"{self.what}: an activation of shape {x.shape} has no axis {axis}."
            )
        size = x.shape[axis]
        for index in self.indices:
            if not -size <= index < size:
                raise OutOfRangeError(
                    f"{self.what}: {index} is not among the {size} of an "
                    f"activation of shape {x.shape}."
                )
        at = mx.array([i % size for i in self.indices], dtype=mx.int32)
        if not at.size:
            return x
        where = (slice(None),) * axis + (at,)
        part = x[where]
        edited = self.fn(part)
        if edited.shape != part.shape or edited.dtype != part.dtype:
            raise UsageError(
                f"{self.what}: the inner intervention must keep shape and "
                f"dtype: expected {shown(part)}, got {shown(edited)}."
            )
        y = mx.array(x)
        y[where] = edited
        return y

    def for_site(self, site: str) -> Intervention:
        """The same for a site, where that decides which axis is meant."""
        by_head = site.rpartition(".")[2] in ("scores", "pattern")
        axis = 1 if by_head and self.what == "on_heads" else self.axis
        if by_head and self.what == "at_positions":
            axis = 2
        return _Part(self.what, self.indices, for_site(self.fn, site), axis)


def at_positions(positions: Indices, fn: Intervention) -> Intervention:
    """Applies `fn` at some positions only (axis 1; of scores and patterns the
    destinations, axis 2), counted from the end if negative."""
    return _Part("at_positions", positions, fn, 1)


def on_heads(heads: Indices, fn: Intervention) -> Intervention:
    """Applies `fn` to some heads only, of q, k, v, z (axis 2) and of scores
    and patterns (axis 1)."""
    return _Part("on_heads", heads, fn, 2)


def on_neurons(neurons: Indices, fn: Intervention) -> Intervention:
    """Applies `fn` to some entries of the last axis only."""
    return _Part("on_neurons", neurons, fn, -1)


def for_site(fn: Intervention, site: str) -> Intervention:
    """`fn` as it is to act on a resolved site."""
    make = getattr(fn, "for_site", None)
    return fn if make is None else make(site)


def _broadcast(value, x: mx.array, what: str) -> mx.array:
    """`value` as an array of x's shape and dtype."""
    value = mx.array(value) if not isinstance(value, mx.array) else value
    pairs = zip(value.shape[::-1], x.shape[::-1])
    if value.ndim > x.ndim or any(a not in (1, b) for a, b in pairs):
        raise UsageError(
            f"{what}: shape {value.shape} does not broadcast to the "
            f"activation's {x.shape}."
        )
    return mx.broadcast_to(value.astype(x.dtype), x.shape)


def _laid_on(x: mx.array, value: mx.array, axis: int, align: str) -> mx.array:
    """`x` with `value` on its first or last positions."""
    n = min(x.shape[axis], value.shape[axis])
    some = slice(-n, None) if align == "end" else slice(0, n)
    where = (slice(None),) * axis + (some,)
    part, target = value[where], x[where]
    y = mx.array(x)
    y[where] = _broadcast(part, target, "replace_with")
    return y
