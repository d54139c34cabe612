"""The unit of computation: sequences laid end to end in one row, no token of it padding."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

IGNORED_LABEL = -100  # the label that cross entropy skips, as in torch and transformers


@dataclass(frozen=True)
class MicroBatch:
    """Several sequences in one packed row.

    Attributes:
        input_ids: [1, tokens]
        labels: [1, tokens]; `IGNORED_LABEL` where no loss is taken, always so on the first token of a sequence.
        position_ids: [1, tokens], starting at 0 with every sequence.
        row_starts: [sequences + 1], where each sequence begins, and the end of the last.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    row_starts: torch.Tensor

    @property
    def rows(self) -> int:
        """How many sequences the row holds."""
        return len(self.row_starts) - 1

    def tensors(self) -> dict[str, torch.Tensor]:
        """The fields by name, as a data loader carries them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def to(self, device: torch.device) -> MicroBatch:
        """Return the same micro-batch on another device."""
        return MicroBatch(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    @property
    def targets(self) -> int:
        """How many tokens carry loss."""
        return int((self.labels[0, 1:] != IGNORED_LABEL).sum())

    @property
    def row_lengths(self) -> list[int]:
        """Tokens of each sequence."""
        return [int(length) for length in self.row_starts[1:] - self.row_starts[:-1]]

    def split(self) -> list[MicroBatch]:
        """Return every sequence as a micro-batch of its own."""
        parts = [tensor.split(self.row_lengths, dim=1) for tensor in (self.input_ids, self.labels, self.position_ids)]
        starts = [torch.tensor([0, length], device=self.row_starts.device) for length in self.row_lengths]
        return [MicroBatch(*fields) for fields in zip(*parts, starts, strict=True)]


def isolation_mask(micro_batch: MicroBatch) -> torch.Tensor | None:
    """Tell attention which keys each token may see: those of its own sequence up to itself.

    Returns:
        [1, 1, tokens, tokens], True where attention is allowed; None for one sequence, where causal order is enough.
    """
    if micro_batch.rows == 1:
        return None
    device = micro_batch.input_ids.device
    lengths = torch.tensor(micro_batch.row_lengths, device=device)
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)  # [tokens]
    place = torch.arange(len(sequence), device=device)
    allowed = (sequence[:, None] == sequence[None, :]) & (place[:, None] >= place[None, :])
    return allowed[None, None]
