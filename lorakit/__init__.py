"""lorakit: LoRA fine-tuning that works today, on one laptop or one GPU.

Importing the package is light: torch and transformers load only when a task, or `load`, needs them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lorakit.api import LoadedModel as LoadedModel
    from lorakit.api import load as load

_IN_API = ("load", "LoadedModel")


def __getattr__(name: str) -> Any:
    """Import the Python interface when it is first asked for (PEP 562)."""
    if name not in _IN_API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lorakit.libraries import settle_libraries

    settle_libraries()
    return getattr(importlib.import_module("lorakit.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_IN_API])
