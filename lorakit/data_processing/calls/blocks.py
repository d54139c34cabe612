"""Blocks between two marks in a text, found in time that grows with its length alone.

An expression such as ``<a>(.*?)</a>`` looks through the whole rest of a text for every ``<a>`` that nothing closes,
which for a million of them is hours; and texts come from strangers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A piece of a text.

    Attributes:
        begin: Place of its opening mark.
        opening: What that mark is.
        inner: What stands between the marks.
        end: Place behind its closing mark.
    """

    begin: int
    opening: re.Match[str]
    inner: str
    end: int


@dataclass(frozen=True)
class Marks:
    """What stands before and behind a block.

    Attributes:
        opening: Begins with fixed characters, and looks no further than the next place where these could stand.
        closing: The same; the first behind an opening ends it.
    """

    opening: re.Pattern[str]
    closing: re.Pattern[str]

    @classmethod
    def compile(cls, opening: str, closing: str) -> Marks:
        """Make marks of two regular expressions."""
        return cls(re.compile(opening), re.compile(closing))

    def blocks(self, text: str) -> Iterator[Block]:
        """Yield the blocks of a text in order; none lies in another."""
        place = 0
        while opened := self.opening.search(text, place):
            closed = self.closing.search(text, opened.end())
            if closed is None:  # nor is there one behind a later opening
                return
            yield Block(opened.start(), opened, text[opened.end() : closed.start()], closed.end())
            place = closed.end()


def outside(text: str, blocks: Iterable[Block]) -> str:
    """Return what stands beside some blocks of a text."""
    kept: list[str] = []
    place = 0
    for block in blocks:
        kept.append(text[place : block.begin])
        place = block.end
    return "".join([*kept, text[place:]])
