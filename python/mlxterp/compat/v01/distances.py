"""How far two vectors of logits are apart, in float32 whatever their type."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx


def l2(a: mx.array, b: mx.array) -> float:
    """The Euclidean distance of two [vocab]."""
    # Scaled by the greatest difference first, so that no square overflows.
    difference = mx.abs(a.astype(mx.float32) - b.astype(mx.float32))
    greatest = float(difference.max())
    if greatest == 0.0:
        return 0.0
    return greatest * float(mx.sqrt(mx.sum(mx.square(difference / greatest))))


def cosine(a: mx.array, b: mx.array) -> float:
    """One less the cosine of the angle between two [vocab]; 1 where either is
    zero and has no direction."""
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    length_a, length_b = mx.linalg.norm(a), mx.linalg.norm(b)
    if min(float(length_a), float(length_b)) < 1e-10:
        return 1.0
    return float(1.0 - mx.sum((a / length_a) * (b / length_b)))


def mse(a: mx.array, b: mx.array) -> float:
    """The mean squared difference of two [vocab]."""
    return float(mx.mean(mx.square(a.astype(mx.float32) - b.astype(mx.float32))))


DISTANCES: dict[str, Callable[[mx.array, mx.array], float]] = {
    "l2": l2,
    "cosine": cosine,
    "mse": mse,
}
