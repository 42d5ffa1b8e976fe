"""How far two vectors of logits are apart, in float32 whatever their type."""

from __future__ import annotations

import mlx.core as mx


def l2(a: mx.array, b: mx.array) -> float:
    """The Euclidean distance of two [vocab]."""
    # Scaled by the greatest difference first, so that no square overflows.
    difference = mx.abs(a.astype(mx.float32) - b.astype(mx.float32))
    greatest = float(difference.max()) or 1.0
    return greatest * float(mx.linalg.norm(difference / greatest))


def cosine(a: mx.array, b: mx.array) -> float:
    """One less the cosine of the angle between two [vocab]; 1 where either is
    zero and has no direction."""
    a, b = a.astype(mx.float32), b.astype(mx.float32)
    a, b = (it / max(float(mx.linalg.norm(it)), 1e-10) for it in (a, b))
    return float(1.0 - mx.sum(a * b))


def mse(a: mx.array, b: mx.array) -> float:
    """The mean squared difference of two [vocab]."""
    return float(mx.mean(mx.square(a.astype(mx.float32) - b.astype(mx.float32))))


DISTANCES = {"l2": l2, "cosine": cosine, "mse": mse}
