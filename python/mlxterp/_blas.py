"""Which BLAS does the matrix products on a CPU.

MLX's Linux wheel brings a slow reference BLAS (4 GFLOP/s against 150 on two
cores). A library loaded into the process before `mlx.core` answers instead.
"""

import ctypes
import ctypes.util
import sys
import warnings


def prefer_openblas() -> None:
    """Loads OpenBLAS before MLX, on Linux, where that still helps."""
    if sys.platform != "linux" or "mlx.core" in sys.modules:
        return
    for name in ("libopenblas.so.0", ctypes.util.find_library("openblas")):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            return
        except (OSError, TypeError):  # TypeError: find_library found none
            continue


def warn_where_slow(blas: tuple[str, bool]) -> None:
    """Says once that the slow BLAS answers, and how to change that."""
    name, slow = blas
    if slow:
        warnings.warn(
            f"matrix products run on the {name} BLAS, some 30 times slower "
            "than OpenBLAS: install it (Debian: libopenblas0) and import "
            "mlxterp before mlx, or start Python with "
            "LD_PRELOAD=libopenblas.so.0",
            RuntimeWarning,
            stacklevel=3,
        )
