"""Which BLAS does the matrix products on a CPU.

MLX's Linux wheel brings a slow reference BLAS (4 GFLOP/s against 150 on two
cores). Importing the extension puts OpenBLAS in its place.
"""

import warnings


def warn_where_slow(blas: tuple[str, bool]) -> None:
    """Warns that the slow BLAS is in use, and says how to change that."""
    name, slow = blas
    if slow:
        warnings.warn(
            f"matrix products run on the {name}, some 30 times slower than "
            "OpenBLAS: install it (Debian: libopenblas0), or start Python with "
            "LD_PRELOAD=libopenblas.so.0",
            RuntimeWarning,
            stacklevel=3,
        )
