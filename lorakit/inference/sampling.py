"""How the tokens of an answer are chosen; what is drawn for a row depends on its seed alone, not on its company."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper

from lorakit.config import Config


@dataclass(frozen=True)
class SamplingParams:
    """How an answer is written; see the settings of these names.

    Attributes:
        max_new_tokens: Where it is cut, at least 1.
        temperature: 0 takes the likeliest token.
        top_p: Of the probability, the share that is drawn from; 1 for all of it.
        repetition_penalty: 1 for none.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    @classmethod
    def of(cls, config: Config) -> SamplingParams:
        """Return what a configuration says."""
        return cls(config.max_new_tokens, config.temperature, config.top_p, config.repetition_penalty)

    @property
    def is_sampled(self) -> bool:
        """Whether tokens are drawn."""
        return self.temperature > 0


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
