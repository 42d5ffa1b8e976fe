"""Which BLAS does the matrix products on a CPU, and whether they are right.

MLX's Linux wheel brings a slow reference BLAS (4 GFLOP/s against 150 on two
cores). Importing the extension puts OpenBLAS in its place.
"""

import warnings

from . import _core


def check_blas() -> None:
    """Multiplies small matrices and warns where the slow BLAS does it.

    Raises:
        IoError: a product is not a plain loop's. It names the library, its
            kernel and the remedy.
    """
    _core.require_right_products()
    name, slow = _core.blas()
    if slow:
        warnings.warn(
            f"matrix products run on the {name}, some 30 times slower than "
            "OpenBLAS: install it (Debian: libopenblas0), or start Python with "
            "LD_PRELOAD=libopenblas.so.0",
            RuntimeWarning,
            stacklevel=3,
        )
    if kernels := _core.better_kernels():
        warnings.warn(
            f"{name} is older than this processor and took kernels two to three "
            f"times as slow as others: start Python with OPENBLAS_CORETYPE={kernels}",
            UserWarning,
            stacklevel=3,
        )
