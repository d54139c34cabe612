"""What every objective promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from lorakit.engine import Scores


class Objective(Protocol):
    """Turns what a model says of a micro-batch into what is minimised."""

    @property
    def label_smoothing(self) -> float:
        """How much of each target is spread over the vocabulary, in the log-probabilities it is given."""
        ...

    def loss(self, scores: Sequence[Scores]) -> torch.Tensor:
        """Return the loss summed over the micro-batch, a scalar; a step divides the sum over all by its targets.

        Args:
            scores: Of the micro-batch, or of each of its sequences where these are not packed.
        """
        ...
