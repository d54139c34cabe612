"""Where the sequences of a packed row lie: for attention, which keeps them apart, and for the last layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch

# Queries computed at once: enough rows for a fast product, and little beyond the diagonal is computed in vain.
TILE_TOKENS = 128
# The probabilities of longer sequences are computed anew in the backward pass: kept, they grow with the square.
_LONGEST_KEPT_SEQUENCE = 256


@dataclass(frozen=True)
class Span:
    """Where one sequence lies in a packed row.

    Attributes:
        queries: Those of its last tokens, or of all.
        keys: Its own, and values.
        prefix_len: Keys and values at the start of the packed row that come before its own.
    """

    queries: slice
    keys: slice
    prefix_len: int = 0

    @property
    def num_keys(self) -> int:
        """How many keys its last query sees."""
        return int(self.prefix_len + self.keys.stop - self.keys.start)

    @property
    def is_kept(self) -> bool:
        """Whether the backward pass finds its probabilities."""
        return bool(self.queries.stop - self.queries.start <= _LONGEST_KEPT_SEQUENCE)

    def visible(self, packed: torch.Tensor) -> torch.Tensor:
        """Take its keys or values out of the packed row's [heads, tokens, size]: [heads, prefix + own, size]."""
        own = packed[:, self.keys]
        # contiguous: far faster to multiply by
        return torch.cat([packed[:, : self.prefix_len], own], dim=1) if self.prefix_len else own.contiguous()

    def tiles(self) -> Iterator[tuple[slice, int]]:
        """Yield queries and how many keys the last of them sees, the last queries first."""
        start, end = self.queries.start, self.queries.stop
        for first in reversed(range(start, end, TILE_TOKENS)):
            after = min(first + TILE_TOKENS, end)
            yield slice(first, after), self.num_keys - (end - after)


@dataclass(frozen=True)
class PackedLayout:
    """Where the sequences of a packed row lie; one object for all layers of a pass.

    Attributes:
        seqlens: Tokens of each sequence, without those of the prefix.
        prefix_len: Tokens at the start of the packed row with which every sequence begins.
        tails: Tokens at the end of each sequence that the last layer is wanted for; None for all of them.
        wanted: The same tokens by their places in the packed row, [sum of tails].
    """

    seqlens: tuple[int, ...]
    prefix_len: int = 0
    tails: tuple[int, ...] | None = None
    wanted: torch.Tensor | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, with those of the prefix."""
        return self.prefix_len + max(self.seqlens)

    @cached_property
    def spans(self) -> tuple[Span, ...]:
        """The sequences one by one, the prefix as the first where there is one."""
        return self._spans(self.seqlens, self.prefix_len)

    @cached_property
    def tail_spans(self) -> tuple[Span, ...]:
        """The same where only the wanted tokens have queries."""
        return self.spans if self.tails is None else self._spans(self.tails, 0)

    def _spans(self, queries: tuple[int, ...], of_prefix: int) -> tuple[Span, ...]:
        lengths = (self.prefix_len, *self.seqlens) if self.prefix_len else self.seqlens
        asking = (of_prefix, *queries) if self.prefix_len else queries
        spans, query, key = [], 0, 0
        for num_queries, tokens in zip(asking, lengths, strict=True):
            prefix_len = self.prefix_len if key else 0
            spans.append(Span(slice(query, query + num_queries), slice(key, key + tokens), prefix_len))
            query, key = query + num_queries, key + tokens
        return tuple(spans)
