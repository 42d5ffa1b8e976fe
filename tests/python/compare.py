"""Two-sided comparison of numbers that products have gone into."""

import mlx.core as mx
import numpy as np


def repeated(a, b, bound=1e-5):
    """Whether they are one value, computed twice: equal, but for numbers with a
    fraction, which may differ by `bound` of the larger of 1 and the largest. A
    product need not come out with the same bits twice: how a BLAS adds up depends
    on processor, threads and memory. NaN equals nothing."""
    if isinstance(a, dict):
        return list(a) == list(b) and repeated(list(a.values()), list(b.values()), bound)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(repeated(x, y, bound) for x, y in zip(a, b))
    if isinstance(a, (float, mx.array, np.ndarray)):
        a, b = (mx.array(it) for it in (a, b))
        if (a.shape, a.dtype) != (b.shape, b.dtype) or a.size == 0:
            return False
        if not mx.issubdtype(a.dtype, mx.floating):
            return mx.array_equal(a, b).item()
        a, b = (np.array(it.astype(mx.float32), np.float64) for it in (a, b))
        finite = ~(np.isinf(a) | np.isinf(b))  # NaN stays, and fails
        size = max(1, np.abs(a[finite]).max(initial=0))
        return bool(
            (a[~finite] == b[~finite]).all()
            and (np.abs(a[finite] - b[finite]) <= bound * size).all()
        )
    return a == b
