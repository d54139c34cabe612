"""Attention with more to it than causal order (see `Limits`), where no backend has a function of its own for it.

With dropout, on a GPU, and where values are of another size than keys. Queries are taken a tile at a time with the keys
that they may see, so that a window costs what it sees; the backward pass is autograd's.
"""

from __future__ import annotations

import torch
from torch.nn.functional import dropout as drop

from lorakit.engine.backends.operands import Limits
from lorakit.engine.layout import Span

_TILE_TOKENS = 256


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
        allowed = limits.sees(asked, place)  # [tile, seen]
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
