"""Causal attention of one sequence on a CPU, as one autograd function of plain batched products.

torch's flash kernel is fast forward on a CPU but slow backward. Here the query heads of a key head are computed
together, queries a tile at a time, so that what causal order forbids is hardly ever computed. Short sequences keep
their probabilities for the backward pass; long ones compute them anew.

Source for the tiles: Dao et al., 2022, "FlashAttention", arXiv 2205.14135.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

# Queries computed at once: enough rows for a fast product, and little beyond the diagonal is computed in vain.
_TILE_TOKENS = 128
# The probabilities of longer sequences are computed anew in the backward pass: kept, they grow with the square.
_LONGEST_KEPT_ROW = 256


class RowAttention(torch.autograd.Function):
    """Causal attention of one sequence, with grouped heads; the queries may be those of its last tokens alone."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Attend.

        Args:
            ctx: Of autograd.
            query: [1, heads, tokens, head size]
            key: [1, key heads, earlier + tokens, head size]
            value: [1, key heads, earlier + tokens, head size]
            scaling: Of the products of queries and keys.

        Returns:
            [1, heads, tokens, head size]
        """
        _, heads, tokens, size = query.shape
        key_heads, earlier = key.shape[1], key.shape[2] - tokens
        query = query.reshape(key_heads, heads // key_heads, tokens, size)
        key, value = key[0].contiguous(), value[0].contiguous()  # far faster to multiply by
        output = torch.empty_like(query, memory_format=torch.contiguous_format)
        kept = []
        for start, end in _tiles(tokens):
            probabilities = _probabilities(query, key, start, end, scaling)
            output[:, :, start:end] = torch.bmm(probabilities, value[:, : earlier + end]).view(
                key_heads, -1, end - start, size
            )
            if tokens <= _LONGEST_KEPT_ROW:
                kept.append(probabilities)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.scaling = scaling
        return output.view(1, heads, tokens, size)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of query, key and value."""
        query, key, value, *kept = ctx.saved_tensors
        key_heads, repeats, tokens, size = query.shape
        earlier = key.shape[1] - tokens
        grad = grad.reshape(query.shape)
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        grad_key, grad_value = torch.zeros_like(key), torch.zeros_like(value)
        for number, (start, end) in enumerate(_tiles(tokens)):
            part = (slice(None), slice(None), slice(start, end))
            keys = (slice(None), slice(0, earlier + end))
            probabilities = kept[number] if kept else _probabilities(query, key, start, end, ctx.scaling)
            grad_tile = grad[part].reshape(key_heads, -1, size)
            grad_value[keys].baddbmm_(probabilities.transpose(1, 2), grad_tile)
            grad_probabilities = torch.bmm(grad_tile, value[keys].transpose(1, 2))
            grad_scores = torch.ops.aten._softmax_backward_data(
                grad_probabilities, probabilities, -1, probabilities.dtype
            )
            grad_query[part] = torch.bmm(grad_scores, key[keys]).view(key_heads, repeats, end - start, size)
            grad_key[keys].baddbmm_(grad_scores.transpose(1, 2), query[part].reshape(key_heads, -1, size))
        grad_query, grad_key = grad_query.mul_(ctx.scaling), grad_key.mul_(ctx.scaling)
        return grad_query.view(1, -1, tokens, size), grad_key[None], grad_value[None], None


def _tiles(tokens: int) -> list[tuple[int, int]]:
    return [(start, min(start + _TILE_TOKENS, tokens)) for start in range(0, tokens, _TILE_TOKENS)]


def _probabilities(query: torch.Tensor, key: torch.Tensor, start: int, end: int, scaling: float) -> torch.Tensor:
    """Return what the queries from start to end pay to each key: [key heads, repeats * tile, earlier + end]."""
    key_heads, repeats, tokens, size = query.shape
    keys = key.shape[1] - tokens + end
    tile = query[:, :, start:end].reshape(key_heads, -1, size)
    unused = tile.new_empty(1)
    scores = torch.baddbmm(unused, tile, key[:, :keys].transpose(1, 2), beta=0, alpha=scaling)
    on_diagonal = scores.view(key_heads, repeats, end - start, keys)[..., start - end :]
    on_diagonal.add_(_future(end - start, query.dtype, query.device))
    return torch.softmax(scores, dim=-1)


@lru_cache(maxsize=2 * _TILE_TOKENS)
def _future(tokens: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return minus infinity where a key lies in the future, else 0: [tokens, tokens]. Adding is faster than filling."""
    return torch.full((tokens, tokens), float("-inf"), dtype=dtype, device=device).triu_(1)
