#!/usr/bin/env python3
"""The mlxterp command of an installed package: becomes the program in it."""

import importlib.util
import os
import sys
from pathlib import Path

# Where the package is, without importing it: that would take MLX's time.
package = importlib.util.find_spec("mlxterp")
if package is None or not package.submodule_search_locations:
    sys.exit(f"mlxterp: {sys.executable} has no package mlxterp; install it again")
program = Path(package.submodule_search_locations[0]) / "bin" / "mlxterp"
if not program.is_file():
    sys.exit(
        f"mlxterp: there is no {program}: PYTHONPATH leads to sources, or the "
        "package is mlxterp 0.1, which has no command"
    )
os.execv(program, ["mlxterp", *sys.argv[1:]])
