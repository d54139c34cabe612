"""Cutting loops out of answers without harming what repeats for a reason.

A small or over-trained model can fall into a loop and write the same sentence until its token limit. Lists, code,
poems, tables and laughter repeat too. What tells them apart is how often, how long, and whether anything follows:

| what is repeated                         | cut to one when it stands                                  |
|------------------------------------------|------------------------------------------------------------|
| a sentence of 4 characters or more       | 4 times; at the end of the text, on one line, 3 times      |
| any other phrase or line                 | 8 times over 48 characters; at the end, 5 times over 60    |
| code (fenced, or with brackets and ``=``)| at the end, 8 times                                        |
| signs without a letter (----, ......)    | at the end, over 200 characters                            |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy

_LONGEST_UNIT = 400  # characters
_SENTENCE_ENDS = "。！？!?.…；"
_CODE_SIGNS = set("=(){}[]<>;")
_FENCE = "```"
_HOPELESS_COPIES = 8
_HOPELESS_CHARACTERS = 200


@dataclass(frozen=True)
class _Loop:
    """A stretch that repeats: text[start:end] has the period ``period``, in characters."""

    start: int
    end: int
    period: int

    @property
    def copies(self) -> int:
        return (self.end - self.start) // self.period


def clean_repetition(text: str) -> str:
    """Reduce every loop in a text to its first copy. Texts without loops come back unchanged."""
    while (loop := _first_loop(text)) is not None:
        rest = "" if loop.end == len(text) else text[loop.start + loop.copies * loop.period :]
        text = text[: loop.start + loop.period] + rest
    return text


def is_hopeless(text: str) -> bool:
    """Tell whether a growing answer is stuck for good, so that generation may stop."""
    loop = _first_loop(text)
    return (
        loop is not None
        and loop.end == len(text)
        and loop.copies >= _HOPELESS_COPIES
        and loop.end - loop.start >= _HOPELESS_CHARACTERS
    )


def echo_length(text: str) -> int:
    """Count the characters at the end that repeat what stands right before them.

    They may turn out to be part of a loop, so a stream holds them back until it is known.
    """
    longest = 0
    for period in range(1, min(_LONGEST_UNIT, len(text) - 1) + 1):
        length = 0
        while length < len(text) - period and text[-1 - length] == text[-1 - length - period]:
            length += 1
        longest = max(longest, length)
    return longest


def _first_loop(text: str) -> _Loop | None:
    code_points = numpy.frombuffer(text.encode("utf-32-le"), dtype=numpy.uint32)
    found: list[_Loop] = []
    for period in range(1, min(_LONGEST_UNIT, len(text) // 3) + 1):
        for start, end in _periodic_stretches(code_points, period):
            loop = _Loop(start, end, period)
            if any(other.start <= start and end <= other.end for other in found):
                continue  # a multiple of a shorter period
            found.append(loop)
    judged = [judgement for loop in found if (judgement := _judge(text, loop)) is not None]
    return min(judged, key=lambda loop: (loop.start, loop.period), default=None)


def _periodic_stretches(code_points: numpy.ndarray, period: int) -> list[tuple[int, int]]:
    """Find the maximal [start, end) with at least three copies of a unit of ``period`` characters."""
    same = numpy.concatenate(([False], code_points[period:] == code_points[:-period], [False]))
    edges = numpy.flatnonzero(same[1:] != same[:-1])
    return [
        (int(first), int(last) + period)
        for first, last in zip(edges[::2], edges[1::2], strict=True)
        if last - first >= 2 * period
    ]


def _judge(text: str, loop: _Loop) -> _Loop | None:
    """Return the loop, turned so that its unit is a whole sentence where it is one; None if it may stay."""
    is_last = loop.end == len(text)
    unit = text[loop.start : loop.start + loop.period]
    characters = loop.end - loop.start
    if not any(character.isalnum() for character in unit):
        return loop if is_last and characters > _HOPELESS_CHARACTERS else None
    if _CODE_SIGNS & set(unit) or text.count(_FENCE, 0, loop.start) % 2:
        return loop if is_last and loop.copies >= _HOPELESS_COPIES else None
    for start in range(loop.start, min(loop.start + loop.period, loop.end)):
        sentence = _Loop(start, loop.end, loop.period)
        if _is_sentence(text[start : start + loop.period]):
            needed = 3 if is_last and "\n" not in unit else 4
            return sentence if sentence.copies >= needed else None
    is_long_enough = (loop.copies >= 8 and characters >= 48) or (is_last and loop.copies >= 5 and characters >= 60)
    return loop if is_long_enough else None


def _is_sentence(unit: str) -> bool:
    stripped = unit.strip()
    return len(stripped) >= 4 and unit.rstrip()[-1] in _SENTENCE_ENDS and unit[0] not in _SENTENCE_ENDS + " \n"
