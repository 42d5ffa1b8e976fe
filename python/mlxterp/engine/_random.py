"""MLX's random state, to draw again what was drawn."""

from __future__ import annotations

from contextlib import contextmanager

import mlx.core as mx

from ._threads import leave_clean


def random_state() -> mx.array:
    """The key that this thread's next random numbers come from."""
    leave_clean()
    return mx.random.state[0]


def set_random_state(key: mx.array):
    """Evaluates the key: a seed is how MLX lets one be set."""
    high, low = key.tolist()
    mx.random.seed(high << 32 | low)


@contextmanager
def random_state_kept(start: mx.array | None = None):
    """Leaves the random state as found; the block runs from `start`, if one
    is given."""
    before = random_state()
    try:
        if start is not None:
            set_random_state(start)
        yield
    finally:
        if random_state() is not before:
            set_random_state(before)
