"""How the settings name an adapter: a folder, with a name before it and a weight after it where these are wanted."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lorakit.errors import SettingsError
from lorakit.incoming import is_folder
from lorakit.runs import ADAPTER_FOLDER

BASE = "base"  # how the model without an adapter is called
_NAME = re.compile(r"[^\W\d][\w.-]*")
_HOW = "write PATH, NAME=PATH, PATH:WEIGHT or NAME=PATH:WEIGHT, such as polite=output/lora_model:0.7"


@dataclass(frozen=True)
class AdapterChoice:
    """One adapter that is to be loaded.

    Attributes:
        name: What it is called from then on.
        folder: Where it lies.
        weight: What its scaling is multiplied by when it is used.
    """

    name: str
    folder: Path
    weight: float = 1.0


def choose_adapters(listed: Sequence[str], place: str = "lora_model_path") -> list[AdapterChoice]:
    """Read adapters as they are written in ``lora_model_path`` and in the session.

    Args:
        listed: Each ``PATH``, ``NAME=PATH``, either with ``:WEIGHT`` behind it. A folder of exactly that name wins.
        place: Named in errors.

    Raises:
        SettingsError: Two have one name, or a weight is not a finite number.
    """
    chosen = [_read(text, place) for text in listed]
    names = [choice.name for choice in chosen]
    for choice in chosen:
        if choice.name == BASE:
            raise SettingsError(f"{place}: {BASE!r} is what the base model is called", f"name the adapter; {_HOW}")
        if names.count(choice.name) > 1:
            raise SettingsError(f"{place}: two adapters are called {choice.name!r}", f"name them; {_HOW}")
    return chosen


def read_weighted(text: str, place: str) -> tuple[str, float]:
    """Split ``WHAT:WEIGHT``; without a number behind the last colon all of it is WHAT, with the weight 1.

    Raises:
        SettingsError: The weight is not a finite number.
    """
    what, separator, number = text.rpartition(":")
    try:
        weight = float(number) if separator else math.nan
    except ValueError:  # a colon of the path, such as C:\\adapters
        return text, 1.0
    if not separator:
        return text, 1.0
    if not math.isfinite(weight):
        raise SettingsError(f"{place}: the weight of {what!r} is {number}", "give it a number such as 0.7")
    return what, weight


def _read(text: str, place: str) -> AdapterChoice:
    if is_folder(Path(text)):
        return AdapterChoice(_default_name(Path(text)), Path(text))
    rest, weight = read_weighted(text, place)
    name, separator, path = rest.partition("=")
    if separator and _NAME.fullmatch(name) and not is_folder(Path(rest)):
        if not path:
            raise SettingsError(f"{place}: {text!r} has no path", _HOW)
        return AdapterChoice(name, Path(path), weight)
    return AdapterChoice(_default_name(Path(rest)), Path(rest), weight)


def _default_name(folder: Path) -> str:
    """Call an adapter after its folder; that is ``lora_model`` for every run, so those after the run's."""
    folder = folder.absolute()
    name = (folder.parent if folder.name == ADAPTER_FOLDER else folder).name or folder.as_posix()
    return f"{name}-adapter" if name == BASE else name  # an output_dir may be called so
