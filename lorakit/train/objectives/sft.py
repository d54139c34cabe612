"""Supervised fine-tuning: the negative log-likelihood of the trained tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorakit.engine import Scores


@dataclass(frozen=True)
class SupervisedLoss:
    """See `Objective`; what the model adds for each token, as for the balance of its experts, counts as well."""

    label_smoothing: float = 0.0

    def loss(self, scores: Sequence[Scores]) -> torch.Tensor:
        """Return the summed loss in nats."""
        return torch.stack([one.nats for one in scores]).sum()
