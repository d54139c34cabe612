"""Shares of rows: some trained more often than others, some held back."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence

from lorakit import console
from lorakit.config.settings import RowSource
from lorakit.data_processing.example import EncodedExample, Example
from lorakit.errors import DataError


def weighted(
    examples: Sequence[Example], encoded: Sequence[EncodedExample], source: RowSource, seed: int
) -> tuple[list[Example], list[EncodedExample]]:
    """Give rows as many places in an epoch as their weight says.

    Args:
        examples: Of one source.
        encoded: Their sequences.
        source: With the weight: 2.5 trains every row twice, and half of them, drawn by ``seed``, once more.
        seed: Of the draw.

    Returns:
        The rows that are used at all, and the sequences, repeated.
    """
    whole, share = divmod(source.weight, 1)
    draw = random.Random(seed)  # noqa: S311 - of rows, not of keys
    drawn = set(draw.sample(range(len(examples)), round(share * len(examples))))
    more = {examples[place].origin for place in drawn}
    used = [example for example in examples if whole or example.origin in more]
    if len(used) < len(examples):
        console.note(f"{source.path}: weight {source.weight:g} trains {len(used)} of {len(examples)} rows")
    again = [sequence for sequence in encoded if sequence.origin in more]
    return used, [*list(encoded) * int(whole), *again]


def held_back(examples: Sequence[Example], share: float, seed: int) -> set[str]:
    """Choose rows to validate on: whole questions, so that none is asked on both sides.

    Args:
        examples: All rows.
        share: Of them, from 0 to 1.
        seed: Another one chooses others; rows that are added later move no question to the other side.

    Returns:
        Origins of the chosen rows.

    Raises:
        DataError: There are too few questions for both sides.
    """
    questions: dict[str, list[str]] = {}
    for example in examples:
        questions.setdefault(_question(example), []).append(example.origin)
    if len(questions) < 2:
        raise DataError("validation_share: all rows ask the same question", "set validation_file, or null")
    wanted = max(1, math.floor(share * len(examples) + 0.5))
    chosen: set[str] = set()
    for question in sorted(questions, key=lambda text: hashlib.sha256(f"{seed}\n{text}".encode()).digest())[:-1]:
        if len(chosen) >= wanted:
            break
        chosen.update(questions[question])
    return chosen


def _question(example: Example) -> str:
    """Return the first question of a conversation; the pictures belong to it, case and spaces do not."""
    first = next(message for message in example.messages if message.role == "user")
    return "\n".join([" ".join(first.content.casefold().split()), *first.images])
