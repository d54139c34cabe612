"""Attention with more to it than causal order: windows, soft-capped scores, and sinks that take a share of it.

Rows within their window are left to the faster ways. Here queries are taken a tile at a time with the keys that they
may see, so that a window costs what it sees; the backward pass is autograd's.

Sources: Beltagy et al., 2020, "Longformer", arXiv 2004.05150 (windows); Gemma Team, 2024, "Gemma 2", arXiv 2408.00118
(soft caps); OpenAI, 2025, "gpt-oss", arXiv 2508.10925 (sinks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import dropout as drop

from lorakit.engine.layout import Span

_TILE_TOKENS = 256


@dataclass(frozen=True)
class Limits:
    """What an attention layer does to its scores.

    Attributes:
        window: How many tokens a token sees, itself included; None for all before it.
        chunk: A token sees those of its own chunk of so many; None for all before it.
        soft_cap: Scores are bent to stay below it; None for none.
        sinks: [heads], scores of a place that takes its share and gives nothing; None for none.
    """

    window: int | None = None
    chunk: int | None = None
    soft_cap: float | None = None
    sinks: torch.Tensor | None = None

    @classmethod
    def of(cls, module: Any, given: dict[str, Any]) -> Limits:
        """Read what transformers' attention layers hand to their attention function by name; chunks are settings."""
        sinks = given.get("s_aux") if given.get("s_aux") is not None else given.get("sinks")
        return cls(given.get("sliding_window") or None, _chunk_of(module), given.get("softcap") or None, sinks)

    def bends(self) -> bool:
        """Whether scores are changed, of rows of any length."""
        return self.soft_cap is not None or self.sinks is not None

    def applies_to(self, longest: int) -> bool:
        """Whether they change anything for rows of so many tokens."""
        return self.bends() or any(most is not None and longest > most for most in (self.window, self.chunk))

    def first_seen(self, place: int) -> int:
        """Return the first token that the one at a place sees."""
        after_window = max(place + 1 - self.window, 0) if self.window else 0
        return max(after_window, place // self.chunk * self.chunk if self.chunk else 0)


def _chunk_of(module: Any) -> int | None:
    """Return the chunk of an attention layer, as most of Llama 4's have one."""
    settings = getattr(module, "config", None)
    kinds, number = getattr(settings, "layer_types", None), getattr(module, "layer_idx", None)
    is_chunked = kinds and number is not None and kinds[number] == "chunked_attention"
    return (getattr(settings, "attention_chunk_size", None) or None) if is_chunked else None


def attend_within(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, dropout: float, limits: Limits
) -> torch.Tensor:
    """Attend within one sequence, whose last tokens ask.

    Args:
        query: [1, heads, asking, head size]
        key: [1, key heads, tokens, head size]
        value: [1, key heads, tokens, size of a value]
        scaling: Of the products of queries and keys.
        dropout: On the probabilities.
        limits: Of the layer.

    Returns:
        [1, heads, asking, size of a value]
    """
    asking, tokens = query.shape[2], key.shape[2]
    before = tokens - asking
    tiles = [query.new_empty(*query.shape[:2], 0, value.shape[-1])]
    for first in range(0, asking, _TILE_TOKENS):
        after = min(first + _TILE_TOKENS, asking)
        seen = slice(limits.first_seen(before + first), before + after)
        asked = torch.arange(before + first, before + after, device=query.device)[:, None]
        place = torch.arange(seen.start, seen.stop, device=query.device)[None]
        allowed = place <= asked  # [tile, seen]
        if limits.window:
            allowed &= place > asked - limits.window
        if limits.chunk:
            allowed &= place // limits.chunk == asked // limits.chunk
        tile = (query[:, :, first:after], key[:, :, seen], value[:, :, seen])
        tiles.append(attend_by_scores(*tile, allowed[None, None], scaling, dropout, limits))
    return torch.cat(tiles, dim=2)


def attend_by_scores(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    dropout: float,
    limits: Limits,
) -> torch.Tensor:
    """Attend where a mask allows it: [rows, heads, asking, size of a value].

    Args:
        query: [rows, heads, asking, head size]
        key: [rows, key heads, tokens, head size]
        value: [rows, key heads, tokens, size of a value]
        mask: [rows, 1, asking, tokens], True where allowed, or what is added to the scores.
        scaling: Of the products of queries and keys.
        dropout: On the probabilities.
        limits: Of the layer; its window stands in the mask.
    """
    rows, heads, asking, size = query.shape
    grouped = query.reshape(rows, key.shape[1], -1, size)  # [rows, key heads, repeats * asking, head size]
    scores = torch.matmul(grouped, key.transpose(2, 3)).view(rows, heads, asking, -1) * scaling
    if limits.soft_cap is not None:
        scores = torch.tanh(scores / limits.soft_cap) * limits.soft_cap
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype is torch.bool else scores + mask
    if limits.sinks is not None:
        sinks = limits.sinks.to(scores).view(1, -1, 1, 1).expand(rows, heads, asking, 1)
        scores = torch.cat([scores, sinks], dim=-1)
    shares = torch.softmax(scores, dim=-1).nan_to_num(0.0)  # a token of the padding sees nothing
    if limits.sinks is not None:
        shares = shares[..., :-1]
    shares = drop(shares.to(value.dtype), dropout, training=dropout > 0)
    attended = torch.matmul(shares.reshape(rows, key.shape[1], -1, shares.shape[-1]), value)
    return attended.view(rows, heads, asking, -1)


def attend_span(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    span: Span,
    scaling: float,
    dropout: float,
    limits: Limits,
) -> torch.Tensor:
    """Attend within one sequence of a packed row: [1, heads, asking, size of a value]."""
    seen = span.visible(key[0])[None], span.visible(value[0])[None]
    return attend_within(query[:, :, span.queries], *seen, scaling, dropout, limits)
