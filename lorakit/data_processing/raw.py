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
MOST_DEPTH = 100  # of lists and objects in each other
MOST_CHARACTERS = 2_000_000  # of a row's texts; no model reads as much


def fault_of_size(row: RawRow) -> str | None:
    """Say that a row holds more than a conversation could, which costs time or cannot be written; None where not."""
    count, waiting = 0, [(row.fields, 1)]
    while waiting and count <= MOST_VALUES:
        value, depth = waiting.pop()
        if depth > MOST_DEPTH:
            return f"is nested deeper than {MOST_DEPTH} lists or objects"
        if isinstance(value, dict | list):
            count += len(value)
            inside = value.values() if isinstance(value, dict) else value
            waiting += [(inner, depth + 1) for inner in inside if isinstance(inner, dict | list)]
    return f"holds more than {MOST_VALUES} values" if count > MOST_VALUES else None


def twice(names: Sequence[str]) -> str | None:
    """Return the first name that stands a second time, cut to what a message can bear."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return shortened(name)
        seen.add(name)
    return None
