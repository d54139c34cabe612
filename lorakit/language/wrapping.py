"""Lines of a width that is counted in cells of a terminal, of which a Chinese letter takes two."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_WIDE = "\u2e80-\u303f\u3040-\ufaff\ufe30-\uff65"
_NEVER_FIRST = "，。、；：！？）》」』】”’"
_NEVER_LAST = "(（《「『【“‘"
# Words, and wide letters one by one, each with what must not begin or end a line.
_WORD = rf"[^\s{_WIDE}{_NEVER_FIRST}{_NEVER_LAST}]+"
_PIECE = re.compile(rf"[{_NEVER_LAST}]*(?:{_WORD}|[{_WIDE}{_NEVER_FIRST}])[{_NEVER_FIRST}]*\s*|[{_NEVER_LAST}]+\s*|\s+")


def wrapped(text: str, cells: int) -> list[str]:
    """Break a text into lines, at spaces and between wide letters; a word that is longer has a line of its own.

    Args:
        text: Without line breaks.
        cells: Of a line at most.
    """
    return filled(_PIECE.findall(text.strip()), cells)


def filled(pieces: Iterable[str], cells: int) -> list[str]:
    """Put pieces of text one behind the other, as many into a line as there is room for."""
    lines = [""]
    for piece in pieces:
        if lines[-1] and cells_of((lines[-1] + piece).rstrip()) > cells:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def cells_of(text: str) -> int:
    """Count the cells of a text."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)
