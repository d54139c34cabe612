"""Dropout whose masks belong to the row: drawn from (seed, step, row) and the layer, whatever the row is packed with.

So a step drops out the same however it is cut, wherever its rows are computed, and when a layer is computed anew.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lorakit.engine.micro_batch import MicroBatch
from lorakit.engine.runtime.seeds import seed_of

_WORD = 1 << 16  # dropout decides by 16 random bits: its probability is exact to 1/65536
_OF_NO_ROW = 0  # the seed of tokens that only lengthen a pass


@dataclass
class RowsOfPass:
    """The rows that a model computes at the moment; its layers draw their masks by them.

    Attributes:
        seeds: Of each row; empty where masks are drawn from this process's random numbers.
        tokens: Of each row in the language model.
        tails: How many of these, from the end, the last layer computes where it does not compute all.
        patches: Of each row's pictures, which the vision tower computes one behind the other.
    """

    seeds: Sequence[int] = ()
    tokens: Sequence[int] = ()
    tails: Sequence[int] = ()
    patches: Sequence[int] = ()

    def begin(self, micro_batch: MicroBatch, tails: Sequence[int]) -> None:
        """Take the rows of a pass; they stay until the next one, as a backward pass may compute layers anew."""
        self.seeds = micro_batch.seeds if not micro_batch.shared_tokens else ()
        self.tokens, self.tails = micro_batch.row_lengths, tails
        self.patches = [sum(picture.patches for picture in row) for row in micro_batch.pictures]


@dataclass(frozen=True)
class DropoutPlace:
    """Where a layer stands, for the masks that it draws.

    Attributes:
        rows: Of the model.
        number: Of the layer in the model.
        is_in_tower: Whether it computes pictures, not text.
    """

    rows: RowsOfPass = field(default_factory=RowsOfPass)
    number: int = 0
    is_in_tower: bool = False

    def keep_mask(self, shape: tuple[int, int], probability: float, device: torch.device) -> torch.Tensor:
        """Draw True with probability 1 - p for every element of [tokens, in]."""
        drawn, used = self._lengths(shape[0]) if self.rows.seeds else ((), ())
        if not drawn:
            return _drawn(shape, probability, device, None)
        seeds = [*self.rows.seeds, *[_OF_NO_ROW] * (len(drawn) - len(self.rows.seeds))]
        parts = [
            _drawn((length, shape[1]), probability, device, seed_of(seed, self.number))[length - tail :]
            for seed, length, tail in zip(seeds, drawn, used, strict=True)
            if tail
        ]
        return torch.cat(parts)

    def _lengths(self, tokens: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return how many inputs of a layer are each row's, and how many of these, from the end, it computes.

        Nothing where that cannot be told.
        """
        rows = self.rows
        if self.is_in_tower:
            whole = sum(rows.patches)
            if not whole or any(patches * tokens % whole for patches in rows.patches):
                return (), ()
            own = [
                patches * tokens // whole for patches in rows.patches
            ]  # a projector has fewer than there are patches
            return own, own
        if tokens == sum(rows.tokens):
            return rows.tokens, rows.tokens
        return (rows.tokens, rows.tails) if tokens == sum(rows.tails) else ((), ())


def _drawn(shape: tuple[int, int], probability: float, device: torch.device, seed: int | None) -> torch.Tensor:
    """Draw a mask, from a generator of its own where there is a seed.

    On a CPU torch draws Bernoulli numbers one by one, at a fifth of a training step. Cutting 64 random bits into four
    is three times as fast.
    """
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)
    if device.type != "cpu":
        return torch.rand(shape, device=device, generator=generator) >= probability
    elements = math.prod(shape)
    words = torch.empty((elements + 3) // 4, dtype=torch.int64).random_(-(2**63), None, generator=generator)
    threshold = round(probability * _WORD) - _WORD // 2
    return (words.view(torch.int16)[:elements] >= threshold).view(shape)


def begin_pass(base: Any, micro_batch: MicroBatch, tails: Sequence[int]) -> None:
    """Tell the layers of a base model which rows come now, and how much of them the last layer computes."""
    rows = vars(base).get("rows_of_pass")
    if rows is not None:
        rows.begin(micro_batch, tails)
