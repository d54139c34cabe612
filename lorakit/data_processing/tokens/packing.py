"""Rows become padding-free micro-batches."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from heapq import heapreplace
from itertools import accumulate, chain, takewhile

import numpy as np
import torch
from numpy.typing import NDArray

from lorakit.data_processing.example import EncodedExample
from lorakit.data_processing.tokens.positions import mrope_positions
from lorakit.data_processing.tokens.sequences import Sequences
from lorakit.engine import IGNORED_LABEL, MicroBatch, Picture

# A shorter common beginning saves less than the attention over it costs.
_FEWEST_SHARED_TOKENS = 8
_STARTS = 64  # rows, from the longest on, from which a micro-batch is filled up; the fullest one counts


def pack(sequences: Sequence[EncodedExample], is_beginning_shared: bool = False) -> MicroBatch:
    """Lay sequences end to end in one row without padding; each keeps its own positions, from 0.

    What comes after the token that predicts the last target has no part in the loss, and is left out.

    Args:
        sequences: At least one.
        is_beginning_shared: Let tokens with which all sequences begin stand once in front.
    """
    shared = _common_beginning(sequences) if is_beginning_shared else 0
    ends = list(map(_last_prediction, sequences))
    lengths = [end - shared for end in ends]
    places = _joined(range(shared), (range(shared, shared + length) for length in lengths))
    first, cut = sequences[0], list(zip(sequences, ends, strict=True))
    return MicroBatch(
        input_ids=_joined(first.input_ids[:shared], (sequence.input_ids[shared:end] for sequence, end in cut)),
        next_ids=_joined([IGNORED_LABEL] * shared, (_next_ids(sequence)[shared:end] for sequence, end in cut)),
        position_ids=_with_pictures(places, sequences, ends),
        row_starts=torch.tensor([*accumulate(lengths, initial=shared)]),
        pictures=_pictures(sequences),
        seeds=_seeds(sequences),
    )


def _last_prediction(sequence: EncodedExample) -> int:
    """Count the tokens up to the one that predicts the last target; all of them where nothing is trained."""
    after_pictures = (start + picture.tokens for start, picture in _placed(sequence))
    return max(sequence.last_target, *after_pictures, 0) if sequence.last_target else len(sequence.labels)


def _next_ids(sequence: EncodedExample) -> Sequence[int]:
    return [*sequence.labels[1:], IGNORED_LABEL]


def _placed(sequence: EncodedExample) -> Iterable[tuple[int, Picture]]:
    return zip(sequence.picture_starts, sequence.pictures, strict=True)


def _with_pictures(places: torch.Tensor, sequences: Sequence[EncodedExample], ends: Sequence[int]) -> torch.Tensor:
    """Put the three rows of places under [1, tokens] where there are pictures: [4, 1, tokens]."""
    if not _pictures(sequences):
        return places
    rows = [mrope_positions(end, _placed(sequence)) for sequence, end in zip(sequences, ends, strict=True)]
    return torch.cat([places, torch.cat(rows, dim=1)])[:, None]


def _pictures(sequences: Sequence[EncodedExample]) -> tuple[tuple[Picture, ...], ...]:
    pictures = tuple(sequence.pictures for sequence in sequences)
    return pictures if any(pictures) else ()


def _seeds(sequences: Sequence[EncodedExample]) -> tuple[int, ...]:
    seeds = tuple(sequence.seed for sequence in sequences if sequence.seed is not None)
    return seeds if len(seeds) == len(sequences) else ()


def _common_beginning(sequences: Sequence[EncodedExample]) -> int:
    """Count the tokens, none of them trained, with which all sequences begin.

    The token after them is not trained either: its prediction would have to come from the shared part.
    """
    if len(sequences) == 1 or any(sequence.pictures for sequence in sequences):
        return 0
    limit = min(map(_untrained_beginning, sequences)) - 1
    columns = zip(*(sequence.input_ids[: max(limit, 0)] for sequence in sequences), strict=True)
    shared = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, columns))
    return shared if shared >= _FEWEST_SHARED_TOKENS else 0


def _untrained_beginning(sequence: EncodedExample) -> int:
    return sum(1 for _ in takewhile(lambda label: label == IGNORED_LABEL, sequence.labels))


def pack_under_budget(
    sequences: Sequence[EncodedExample], max_tokens: int, is_beginning_shared: bool = False
) -> Iterator[MicroBatch]:
    """Pack sequences into micro-batches of at most ``max_tokens``; a longer sequence gets its own.

    They are as few and as even as can be, so that none takes more memory than it must. Which sequences go together
    has no influence on a summed loss.
    """
    lengths: list[int] = lengths_of(sequences).tolist()
    for group in _even_groups(lengths, max_tokens):
        yield pack([sequences[index] for index in group], is_beginning_shared)


def pack_fullest_first(
    sequences: Sequence[EncodedExample], max_tokens: int, is_beginning_shared: bool = False
) -> Iterator[MicroBatch]:
    """Pack them into a micro-batch as full as one can be, and what is left evenly."""
    fullest, rest = fullest_rows(sequences, len(sequences), max_tokens), list(sequences)
    for sequence in fullest:
        rest.remove(sequence)
    yield pack(fullest, is_beginning_shared)
    yield from pack_under_budget(rest, max_tokens, is_beginning_shared)


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


def fullest_rows(sequences: Sequence[EncodedExample], most_rows: int, max_tokens: int) -> list[EncodedExample]:
    """Choose the rows of a step that fill a micro-batch most; a row longer than the budget is one by itself.

    Args:
        sequences: All rows.
        most_rows: Of a step of one device.
        max_tokens: The budget.
    """
    lengths = lengths_of(sequences)
    order = np.argsort(-lengths, kind="stable")
    keys = (-lengths[order]).tolist()
    fills = (_filled(keys, start, most_rows, max_tokens) for start in range(min(len(keys), _STARTS)))
    fullest = min(fills, key=lambda places: sum(keys[place] for place in places))
    return [sequences[int(order[place])] for place in fullest]


def lengths_of(sequences: Sequence[EncodedExample]) -> NDArray[np.int64]:
    """Count the tokens of sequences, without making them where they stand in columns: [sequences]."""
    if isinstance(sequences, Sequences):
        return sequences.lengths()
    return np.array([len(sequence.input_ids) for sequence in sequences], np.int64)


def _filled(keys: Sequence[int], start: int, most_rows: int, max_tokens: int) -> list[int]:
    """Take a row and then, again and again, the next that fits; ``keys`` are negative lengths, the longest first."""
    places, room = [start], max_tokens + keys[start]
    while len(places) < most_rows:
        place = bisect_left(keys, -room, lo=places[-1] + 1)
        if place == len(keys):
            break
        places.append(place)
        room += keys[place]
    return places


def _joined(shared: Iterable[int], own: Iterable[Iterable[int]]) -> torch.Tensor:
    return torch.tensor([[*shared, *chain.from_iterable(own)]], dtype=torch.long)  # [1, tokens]
