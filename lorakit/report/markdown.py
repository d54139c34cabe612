"""The few shapes of Markdown that a model card is built from. No text passes into one as it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lorakit.language import translated

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#+!|~$&])")
_BACKTICKS = re.compile("`+")


def plain(text: str) -> str:
    """Return a text that shows as it is, on one line: in a sentence, a list or a cell of a table."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def fenced(text: str, language: str = "text") -> str:
    """Return a block of code, fenced by more backticks than stand in it."""
    longest = max(map(len, _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table with numbers to the right of their names."""
    ruler = ["---", *("---:" for _ in columns[1:])]
    titles = [plain(translated(cell)) for cell in columns]
    cells = [titles, ruler, *([plain(translated(name)), *map(plain, values)] for name, *values in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def section(title: str, *parts: str) -> str:
    """Return a section with its heading, or nothing where all its parts are empty."""
    filled = [part for part in parts if part]
    return "\n\n".join([f"## {translated(title)}", *filled]) if filled else ""
