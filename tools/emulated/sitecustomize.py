"""Puts the engine of `make emulate` in the place of the one that is installed, in every Python that has this folder on
its PYTHONPATH, those that tests start included."""

import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path

_NAME = "recurra._engine"

(_path,) = Path(os.environ["RECURRA_EMULATED"]).glob(f"_engine*{importlib.machinery.EXTENSION_SUFFIXES[0]}")
_spec = importlib.util.spec_from_file_location(_NAME, _path)
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
sys.modules[_NAME] = _module
