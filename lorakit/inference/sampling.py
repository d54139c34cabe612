"""Sampling that belongs to a row: what is drawn for it depends on its seed alone, not on its company in a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper


class RowSampling(LogitsProcessor):  # type: ignore[misc]
    """Adds Gumbel noise to the scores of each row, after which the most likely token is a sample of softmax(scores).

    Source: Maddison, Tarlow and Minka, 2014, "A* Sampling", for the Gumbel-max trick.

    Args:
        seeds: One for each row of the batch.
        temperature: Above 0.
        top_p: See the setting.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_p: float) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._warpers: list[Any] = [TemperatureLogitsWarper(float(temperature))] if temperature != 1 else []
        self._warpers += [TopPLogitsWarper(top_p)] if top_p < 1 else []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores [rows, vocabulary] with noise."""
        for warper in self._warpers:
            scores = warper(input_ids, scores)
        drawn = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=own) for own in self._generators])
        smallest = torch.finfo(drawn.dtype).tiny
        noise = -drawn.clamp_(min=smallest).log_()  # of Gumbel's distribution
        return scores.float() + noise.to(scores.device)
