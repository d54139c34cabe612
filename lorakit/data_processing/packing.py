"""Rows become padding-free micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapreplace
from itertools import accumulate

import torch

from lorakit.data_processing.example import EncodedExample
from lorakit.engine import MicroBatch


def pack(sequences: Sequence[EncodedExample]) -> MicroBatch:
    """Lay sequences end to end in one row without padding; each keeps its own positions, from 0."""
    lengths = [len(sequence.input_ids) for sequence in sequences]
    return MicroBatch(
        input_ids=_row([token for sequence in sequences for token in sequence.input_ids]),
        labels=_row([label for sequence in sequences for label in sequence.labels]),
        position_ids=_row([position for length in lengths for position in range(length)]),
        row_starts=torch.tensor([0, *accumulate(lengths)]),
    )


def pack_under_budget(sequences: Sequence[EncodedExample], max_tokens: int) -> Iterator[MicroBatch]:
    """Pack sequences into micro-batches of at most ``max_tokens``; a longer sequence gets its own.

    They are as few and as even as can be, so that none takes more memory than it must. Which sequences go together
    has no influence on a summed loss.
    """
    lengths = [len(sequence.input_ids) for sequence in sequences]
    for group in _even_groups(lengths, max_tokens):
        yield pack([sequences[index] for index in group])


def _even_groups(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group indices: the longest first, each to the group that has least so far, with as many groups as that takes."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    longer = sum(length > max_tokens for length in lengths)  # each alone in its group
    count = longer + -(-sum(length for length in lengths if length <= max_tokens) // max_tokens)
    while True:
        groups: list[list[int]] = [[] for _ in range(count)]
        filled = [(0, number) for number in range(count)]  # a heap
        for index in order:
            tokens, number = filled[0]
            if tokens and tokens + lengths[index] > max_tokens:
                break
            heapreplace(filled, (tokens + lengths[index], number))
            groups[number].append(index)
        else:
            return [sorted(group) for group in groups if group]
        count += max(count // 64, 1)


def _row(values: list[int]) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.long)  # [1, tokens]
