"""A row as its file has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorakit.data_processing.example import shortened


@dataclass(frozen=True)
class RawRow:
    """A row as the file has it, not yet understood.

    Attributes:
        fields: Usually a mapping.
        origin: Where it stands.
        folder: Of its file, to which paths of pictures are relative.
    """

    fields: Any
    origin: str
    folder: Path = Path()


MOST_VALUES = 20_000  # of a row: turns, tools, fields, and all that stands in them
MOST_CHARACTERS = 2_000_000  # of a row's texts; no model reads as much


def fault_of_size(row: RawRow) -> str | None:
    """Say that a row holds more values than a conversation could, each of which costs time; None where it does not."""
    count, waiting = 0, [row.fields]
    while waiting and count <= MOST_VALUES:
        value = waiting.pop()
        if isinstance(value, dict):
            count += len(value)
            waiting += [inner for inner in value.values() if isinstance(inner, dict | list)]
        elif isinstance(value, list):
            count += len(value)
            waiting += [inner for inner in value if isinstance(inner, dict | list)]
    return f"holds more than {MOST_VALUES} values" if count > MOST_VALUES else None


def twice(names: Sequence[str]) -> str | None:
    """Return the first name that stands a second time, cut to what a message can bear."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return shortened(name)
        seen.add(name)
    return None
