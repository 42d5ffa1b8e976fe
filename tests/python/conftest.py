"""The package of this checkout, before one that is installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "python"))

collect_ignore = ["families.py", "demo_models.py"]
