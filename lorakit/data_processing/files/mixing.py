"""Shares of rows: some trained more often than others, some held back."""

from __future__ import annotations

import hashlib
import math
import random

import numpy as np
from numpy.typing import NDArray

from lorakit import console
from lorakit.config.kinds import RowSource
from lorakit.errors import DataError


def weighted(
    rows: NDArray[np.int64], sequences: NDArray[np.int64], row_of: NDArray[np.int32], source: RowSource, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give rows as many places in an epoch as their weight says.

    Args:
        rows: Numbers of one source's rows.
        sequences: Numbers of their sequences.
        row_of: The row of each sequence.
        source: With the weight: 2.5 trains every row twice, and half of them, drawn by ``seed``, once more.
        seed: Of the draw.

    Returns:
        The rows that are used at all, and the sequences, repeated.
    """
    whole, share = divmod(source.weight, 1)
    draw = random.Random(seed)  # noqa: S311 - of rows, not of keys
    drawn = rows[sorted(draw.sample(range(len(rows)), round(share * len(rows))))]
    used = rows if whole else drawn
    if len(used) < len(rows):
        console.note(f"{source.path}: weight {source.weight:g} trains {len(used)} of {len(rows)} rows")
    return used, np.concatenate([np.tile(sequences, int(whole)), sequences[np.isin(row_of, drawn)]])


def held_back(questions: NDArray[np.uint64], share: float, seed: int) -> NDArray[np.bool_]:
    """Choose rows to validate on: whole questions, so that none is asked on both sides.

    Args:
        questions: A digest of the first question of each row: [rows].
        share: Of the rows, from 0 to 1.
        seed: Another one chooses others; rows that are added later move no question to the other side.

    Returns:
        Whether a row is held back: [rows].

    Raises:
        DataError: There are too few questions for both sides.
    """
    found, question, counts = np.unique(questions, return_inverse=True, return_counts=True)
    if len(found) < 2:
        raise DataError("validation_share: all rows ask the same question", "set validation_file, or null")
    wanted = max(1, math.floor(share * len(questions) + 0.5))
    order = sorted(range(len(found)), key=lambda place: hashlib.sha256(f"{seed} {found[place]}".encode()).digest())
    before = np.cumsum([0, *counts[order]])  # rows of the questions that come first
    count = min(int(np.searchsorted(before, wanted)), len(found) - 1)
    return np.isin(question, order[:count])
