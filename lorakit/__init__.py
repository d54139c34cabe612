"""lorakit: LoRA fine-tuning that works today, on one laptop or one GPU.

Importing the package is light: torch and transformers load only when a task, or `load`, needs them.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # typing is 10 ms more in which Ctrl-C would still be Python's own
if TYPE_CHECKING:
    from lorakit.api import LoadedModel as LoadedModel
    from lorakit.api import load as load

_IN_API = ("load", "LoadedModel")


def __getattr__(name: str) -> object:
    """Import the Python interface when it is first asked for (PEP 562)."""
    if name not in _IN_API:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    from lorakit.libraries import settle_libraries

    settle_libraries()
    return getattr(importlib.import_module("lorakit.api"), name)


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name != "TYPE_CHECKING"), *_IN_API])
