"""The unit of computation: sequences laid end to end in one row, no token of it padding.

Where all sequences begin alike, as with one system prompt, that beginning may stand once in front of all of them: in a
causal model its hidden states depend on nothing that follows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import cycle

import torch

from lorakit.engine.images.pictures import Picture

IGNORED_LABEL = -100  # the label that cross entropy skips, as in torch and transformers


@dataclass(frozen=True)
class MicroBatch:
    """Several sequences in one packed row.

    Attributes:
        input_ids: [1, tokens]
        next_ids: [1, tokens]; what each token is to predict, `IGNORED_LABEL` where no loss is taken.
        position_ids: [1, tokens], those that each token has in its sequence; with pictures [4, 1, tokens]: the same,
            then time, height and width.
        row_starts: [sequences + 1], where each sequence begins, and the end of the last. Tokens before the first are
            the beginning of every sequence; none of them predicts anything.
        pictures: Of each sequence, in order; empty where no sequence has any.
        seeds: For the random numbers of each sequence; empty where they are those of this process. Sequences that only
            lengthen the row have none.
    """

    input_ids: torch.Tensor
    next_ids: torch.Tensor
    position_ids: torch.Tensor
    row_starts: torch.Tensor
    pictures: tuple[tuple[Picture, ...], ...] = ()
    seeds: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """How many sequences the row holds."""
        return len(self.row_starts) - 1

    @property
    def tokens(self) -> int:
        """How many tokens the row has."""
        return int(self.input_ids.shape[1])

    def to(self, device: torch.device) -> MicroBatch:
        """Return the same micro-batch on another device."""
        names = ("input_ids", "next_ids", "position_ids", "row_starts")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    @property
    def targets(self) -> int:
        """How many predictions carry loss."""
        return int((self.next_ids != IGNORED_LABEL).sum())

    @property
    def shared_tokens(self) -> int:
        """Tokens that stand once for all sequences."""
        return int(self.row_starts[0])

    @property
    def row_lengths(self) -> list[int]:
        """Tokens of each sequence, without those it shares."""
        return [int(length) for length in self.row_starts[1:] - self.row_starts[:-1]]

    def lengthened(self, tokens: int) -> MicroBatch:
        """Return it with further sequences up to so many tokens: as long as its own, and without loss.

        They change neither loss nor gradients, only what a pass takes. Itself, where it has as many.
        """
        missing, lengths = tokens - self.tokens, []
        for length in cycle(self.row_lengths):
            if missing <= 0:
                break
            lengths.append(min(length, missing))
            missing -= length
        if not lengths:
            return self
        places = torch.cat([torch.arange(length) + self.shared_tokens for length in lengths])
        added = {"input_ids": self.input_ids[0, -1], "next_ids": torch.tensor(IGNORED_LABEL), "position_ids": places}
        return replace(
            self,
            **{name: _joined(getattr(self, name), values, len(places)) for name, values in added.items()},
            row_starts=torch.cat([self.row_starts, self.row_starts[-1] + torch.tensor(lengths).cumsum(0)]),
            pictures=(*self.pictures, *[()] * len(lengths)) if self.pictures else (),
        )

    def split(self) -> list[MicroBatch]:
        """Return every sequence as a micro-batch of its own, whole."""
        lengths = [self.shared_tokens, *self.row_lengths]
        columns = []
        for tensor in (self.input_ids, self.next_ids, self.position_ids):
            shared, *own = tensor.split(lengths, dim=-1)
            columns.append([torch.cat([shared, part], dim=-1) for part in own])
        starts = [torch.tensor([0, part.shape[1]], device=self.row_starts.device) for part in columns[0]]
        pictures = [(own,) if own else () for own in self.pictures or [()] * self.rows]
        return [MicroBatch(*fields) for fields in zip(*columns, starts, pictures, strict=True)]


def _joined(own: torch.Tensor, added: torch.Tensor, tokens: int) -> torch.Tensor:
    """Put one value, or [tokens] of them, behind own [..., some]: [..., some + tokens]."""
    return torch.cat([own, added.to(own).expand(*own.shape[:-1], tokens)], dim=-1)


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
