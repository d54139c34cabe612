"""Attention over packed rows: each sequence by itself, without a mask over the whole row.

Plugged into every model of transformers through `AttentionInterface`. The lengths of the sequences travel as a keyword
argument down to each layer; without it (in generation) transformers' own SDPA computes. The isolation mask travels as
well, so that a model that drops the argument on its way is slower but never wrong.

On a CPU, torch's flash kernel is fast forward but slow backward for short rows. `RowAttention` computes a sequence with
plain batched products, the query heads of a key head together, and keeps the probabilities for its backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

PACKED = "lorakit_packed"
# Beyond this length the kept probabilities cost more than the flash kernel's slow backward pass.
_LONGEST_EXPLICIT_ROW = 512


class RowAttention(torch.autograd.Function):
    """Causal attention of one sequence, with grouped heads."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
    ) -> torch.Tensor:
        """Attend.

        Args:
            ctx: Of autograd.
            query: [1, heads, tokens, head size]
            key: [1, key heads, tokens, head size]
            value: [1, key heads, tokens, head size]
            scaling: Of the products of queries and keys.

        Returns:
            [1, heads, tokens, head size]
        """
        _, heads, tokens, size = query.shape
        key_heads = key.shape[1]
        query = query.reshape(key_heads, -1, size)  # [key heads, heads a key head * tokens, head size]
        key, value = key.reshape(key_heads, tokens, size), value.reshape(key_heads, tokens, size)
        mask = _future(tokens, heads // key_heads, query.dtype, query.device)
        scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=scaling)
        probabilities = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(query, key, value, probabilities)
        ctx.scaling = scaling
        return torch.bmm(probabilities, value).view(1, heads, tokens, size)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of query, key and value."""
        query, key, value, probabilities = ctx.saved_tensors
        key_heads, tokens, size = key.shape
        grad = grad.reshape(query.shape)
        grad_value = torch.bmm(probabilities.transpose(1, 2), grad)
        grad_probabilities = torch.bmm(grad, value.transpose(1, 2))
        grad_scores = torch.ops.aten._softmax_backward_data(
            grad_probabilities, probabilities, -1, probabilities.dtype
        ).mul_(ctx.scaling)
        grad_query = torch.bmm(grad_scores, key)
        grad_key = torch.bmm(grad_scores.transpose(1, 2), query)
        shape = (1, key_heads, tokens, size)
        return grad_query.view(1, -1, tokens, size), grad_key.view(shape), grad_value.view(shape), None


@lru_cache(maxsize=64)
def _future(tokens: int, repeats: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return minus infinity where a key lies in the future: [1, repeats * tokens, tokens]."""
    mask = torch.full((tokens, tokens), float("-inf"), dtype=dtype, device=device).triu(1)
    return mask.repeat(repeats, 1)[None]


def packed_attention(  # noqa: PLR0913, PLR0917 - the signature is that of transformers
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    row_lengths: Sequence[int] | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each packed sequence; the signature is that of transformers' attention functions.

    Args:
        module: The attention layer.
        query: [1, heads, tokens, head size]
        key: [1, key heads, tokens, head size]
        value: [1, key heads, tokens, head size]
        attention_mask: Isolates the rows; used only where ``row_lengths`` is absent.
        scaling: Of the products; None for one over the root of the head size.
        dropout: On the probabilities.
        row_lengths: Tokens of each sequence.
        kwargs: Passed on to SDPA.

    Returns:
        [1, tokens, heads, head size], and None for the probabilities.
    """
    if row_lengths is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
        return output, None
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    lengths = list(row_lengths)
    parts = zip(query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True)
    rows = [_attend(q, k, v, scale, dropout) for q, k, v in parts]
    return torch.cat(rows, dim=2).transpose(1, 2).contiguous(), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, dropout: float
) -> torch.Tensor:
    is_explicit = query.device.type == "cpu" and query.shape[2] <= _LONGEST_EXPLICIT_ROW and dropout == 0
    if is_explicit:
        return RowAttention.apply(query, key, value, scaling)  # type: ignore[no-any-return]
    return scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=query.shape[1] != key.shape[1]
    )


def register_packed_attention() -> None:
    """Make the implementation known to transformers under the name `PACKED`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, sdpa_mask)
