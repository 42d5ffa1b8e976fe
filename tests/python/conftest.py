"""The package of this checkout, where it is not installed."""

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("mlxterp") is None:
    sys.path.insert(0, str(Path(__file__).parents[2] / "python"))

collect_ignore = ["families.py"]
