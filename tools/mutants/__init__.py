"""Mutants: recurra with one thing wrong, and whether the suite notices. Run through `make mutants`."""

import sys
from pathlib import Path

# the suite: its layers, problems and tests
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
