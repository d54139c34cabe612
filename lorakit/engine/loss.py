"""The loss: cross entropy of the trained tokens, as a sum and a count."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from lorakit.engine.micro_batch import MicroBatch, isolation_mask

_IGNORED_LABEL = -100


@dataclass(frozen=True)
class LossSum:
    """A loss that adds up exactly: across micro-batches, steps, ranks and evaluation batches.

    Attributes:
        nats: Summed negative log-likelihood.
        targets: How many tokens it was summed over.
    """

    nats: float = 0.0
    targets: int = 0

    def __add__(self, other: LossSum) -> LossSum:
        return LossSum(self.nats + other.nats, self.targets + other.targets)

    @property
    def mean(self) -> float:
        """Nats per target token."""
        return self.nats / self.targets if self.targets else math.nan

    @property
    def perplexity(self) -> float:
        """exp(mean); infinite rather than an error where that overflows."""
        return math.exp(self.mean) if self.mean < 700 else math.inf


def summed_loss(model: Any, micro_batch: MicroBatch, label_smoothing: float = 0.0) -> torch.Tensor:
    """Sum the cross entropy of every trained token, in float32.

    Only the hidden states that predict a trained token are projected onto the vocabulary.

    Args:
        model: A causal language model of transformers, with or without a PEFT adapter or a distributed wrapper.
        micro_batch: On the model's device.
        label_smoothing: As in `torch.nn.functional.cross_entropy`.

    Returns:
        A scalar, with gradient where the model has trainable parameters.
    """
    labels = micro_batch.labels[0, 1:]  # the token at i predicts the label at i + 1
    keep = (labels != _IGNORED_LABEL).nonzero().squeeze(-1)  # [targets]
    logits = model(
        input_ids=micro_batch.input_ids,
        attention_mask=isolation_mask(micro_batch),
        position_ids=micro_batch.position_ids,
        logits_to_keep=keep,
        use_cache=False,
    ).logits[0]  # [targets, vocabulary]
    return cross_entropy(logits.float(), labels[keep], reduction="sum", label_smoothing=label_smoothing)
