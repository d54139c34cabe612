"""Rows become padding-free micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    """Pack sequences in order into micro-batches of at most ``max_tokens``; a longer sequence gets its own."""
    waiting: list[EncodedExample] = []
    tokens = 0
    for sequence in sequences:
        if waiting and tokens + len(sequence.input_ids) > max_tokens:
            yield pack(waiting)
            waiting, tokens = [], 0
        waiting.append(sequence)
        tokens += len(sequence.input_ids)
    if waiting:
        yield pack(waiting)


def _row(values: list[int]) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.long)  # [1, tokens]
