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


def twice(names: Sequence[str]) -> str | None:
    """Return the first name that stands a second time, cut to what a message can bear."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return shortened(name)
        seen.add(name)
    return None
