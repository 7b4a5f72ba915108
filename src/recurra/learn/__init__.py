"""Training, on Lightning.

Read `settings.py` for what can be chosen, then `language_model.py` and `fit.py` for what happens.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recurra.learn.evaluate import evaluate
    from recurra.learn.fit import Result
    from recurra.learn.language_model import resume, train
    from recurra.learn.module import DivergedError
    from recurra.learn.settings import Settings

# Loaded on first use: the settings are wanted where torch is not.
_HOMES = {
    "DivergedError": "recurra.learn.module",
    "Result": "recurra.learn.fit",
    "Settings": "recurra.learn.settings",
    "evaluate": "recurra.learn.evaluate",
    "resume": "recurra.learn.language_model",
    "train": "recurra.learn.language_model",
}

__all__ = ["DivergedError", "Result", "Settings", "evaluate", "resume", "train"]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'recurra.learn' has no attribute {name!r}; it has {', '.join(__all__)}")
