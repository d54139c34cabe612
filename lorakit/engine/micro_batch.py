"""The unit of computation: sequences laid end to end in one row, no token of it padding.

Where all sequences begin alike, as with one system prompt, that beginning may stand once in front of all of them: in a
causal model its hidden states depend on nothing that follows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from lorakit.engine.pictures import Picture

IGNORED_LABEL = -100  # the label that cross entropy skips, as in torch and transformers


@dataclass(frozen=True)
class MicroBatch:
    """Several sequences in one packed row.

    Attributes:
        input_ids: [1, tokens]
        labels: [1, tokens]; `IGNORED_LABEL` where no loss is taken, always so on the first token of a sequence.
        position_ids: [1, tokens], those that each token has in its sequence; with pictures [4, 1, tokens]: the same,
            then time, height and width.
        row_starts: [sequences + 1], where each sequence begins, and the end of the last. Tokens before the first are
            the beginning of every sequence; the rest of each then begins with a token without loss.
        pictures: Of each sequence, in order; empty where no sequence has any.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    row_starts: torch.Tensor
    pictures: tuple[tuple[Picture, ...], ...] = ()

    @property
    def rows(self) -> int:
        """How many sequences the row holds."""
        return len(self.row_starts) - 1

    def to(self, device: torch.device) -> MicroBatch:
        """Return the same micro-batch on another device."""
        names = ("input_ids", "labels", "position_ids", "row_starts")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @property
    def targets(self) -> int:
        """How many tokens carry loss."""
        return int((self.labels[0, 1:] != IGNORED_LABEL).sum())

    @property
    def shared_tokens(self) -> int:
        """Tokens that stand once for all sequences."""
        return int(self.row_starts[0])

    @property
    def row_lengths(self) -> list[int]:
        """Tokens of each sequence, without those it shares."""
        return [int(length) for length in self.row_starts[1:] - self.row_starts[:-1]]

    @property
    def sequence_tokens(self) -> int:
        """Tokens of all sequences, as they would be one by one."""
        return int(self.input_ids.shape[1]) + self.shared_tokens * (self.rows - 1)

    def split(self) -> list[MicroBatch]:
        """Return every sequence as a micro-batch of its own, whole."""
        lengths = [self.shared_tokens, *self.row_lengths]
        columns = []
        for tensor in (self.input_ids, self.labels, self.position_ids):
            shared, *own = tensor.split(lengths, dim=-1)
            columns.append([torch.cat([shared, part], dim=-1) for part in own])
        starts = [torch.tensor([0, part.shape[1]], device=self.row_starts.device) for part in columns[0]]
        pictures = [(own,) if own else () for own in self.pictures or [()] * self.rows]
        return [MicroBatch(*fields) for fields in zip(*columns, starts, pictures, strict=True)]


def isolation_mask(micro_batch: MicroBatch) -> torch.Tensor | None:
    """Tell attention which keys each token may see: those of its own sequence up to itself, shared ones included.

    Returns:
        [1, 1, tokens, tokens], True where attention is allowed; None for one sequence, where causal order is enough.
    """
    if micro_batch.rows == 1:
        return None
    device = micro_batch.input_ids.device
    lengths = torch.tensor([micro_batch.shared_tokens, *micro_batch.row_lengths], device=device)
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=device), lengths)  # [tokens]
    place = torch.arange(len(sequence), device=device)
    is_own = (sequence[:, None] == sequence[None, :]) | (sequence[None, :] == 0)  # 0 is what all share
    allowed = is_own & (place[:, None] >= place[None, :])
    return allowed[None, None]
