"""Attention over packed rows: each sequence by itself, without a mask over the whole row.

- where the backend has one call for all sequences, as on a GPU, that;
- where the backend attends to packed rows itself, `PackedAttention`;
- otherwise SDPA, sequence by sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from lorakit.engine.backends.base import Backend
from lorakit.engine.backends.operands import UNLIMITED, AttentionInputs, Limits
from lorakit.engine.layout import PackedLayout, Span
from lorakit.engine.ops.limited_attention import attend_span


@dataclass(frozen=True)
class Packed:
    """What travels down to each attention layer of a packed row; an object, so that a compiled layer serves any row."""

    layout: PackedLayout
    backend: Backend


class PackedAttention(torch.autograd.Function):
    """Causal attention within each sequence of a packed row, with grouped heads."""

    @staticmethod
    def forward(  # type: ignore[override]  # noqa: PLR0913, PLR0917 - autograd's functions take no objects
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        spans: tuple[Span, ...],
        scaling: float,
        backend: Backend,
        limits: Limits = UNLIMITED,
    ) -> torch.Tensor:
        """Attend.

        Args:
            ctx: Of autograd.
            query: [1, heads, queries, head size]
            key: [1, key heads, tokens, head size]
            value: [1, key heads, tokens, head size]
            spans: The sequences; together they have all queries.
            scaling: Of the products of queries and keys.
            backend: Which computes.
            limits: What the layer does to its scores besides; sinks get no gradient.

        Returns:
            [1, queries, heads, head size]
        """
        inputs = AttentionInputs(query[0], key[0], value[0], spans, scaling, limits)
        output, *kept = backend.attention(inputs)
        ctx.save_for_backward(inputs.query, inputs.key, inputs.value, *kept)
        ctx.spans, ctx.scaling, ctx.backend, ctx.limits = spans, scaling, backend, limits
        return output[None]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of query, key and value."""
        query, key, value, *kept = ctx.saved_tensors
        inputs = AttentionInputs(query, key, value, ctx.spans, ctx.scaling, ctx.limits)
        gradients = ctx.backend.attention_backward(inputs, grad[0], kept)
        return *(gradient[None] for gradient in gradients), None, None, None, None


def attend_packed(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    packed: Packed,
    scaling: float,
    dropout: float,
    limits: Limits,
) -> torch.Tensor:
    """Attend within each packed sequence: [1, queries, heads, size of a value].

    Args:
        query: [1, heads, queries, head size]; in the last layer those of the wanted tokens.
        key: [1, key heads, tokens, head size]
        value: [1, key heads, tokens, size of a value]
        packed: Where the sequences lie, and who computes.
        scaling: Of the products of queries and keys.
        dropout: On the probabilities.
        limits: What the layer does to its scores besides.
    """
    layout, backend = packed.layout, packed.backend
    is_tail = layout.tails is not None and query.shape[2] < key.shape[2]
    spans = layout.tail_spans if is_tail else layout.spans
    is_limited, is_even = limits.applies_to(layout.longest), query.shape[-1] == value.shape[-1]
    is_own = backend.attends_packed and dropout == 0 and is_even and not _learns(limits.sinks)
    if not is_own and (is_limited or not is_even):
        limited = [attend_span(query, key, value, span, scaling, dropout, limits) for span in spans]
        return torch.cat(limited, dim=2).transpose(1, 2).contiguous()
    is_simple = not layout.prefix_len and not is_tail and not is_limited
    attend_all = backend.variable_length_attention(query, dropout) if is_simple else None
    if attend_all is not None:
        return attend_all(query, key, value, layout.seqlens, scaling)
    if is_own:
        limits = limits if is_limited else UNLIMITED
        return PackedAttention.apply(query, key, value, spans, scaling, backend, limits)  # type: ignore[no-any-return]
    sequences = [_attend(query, key, value, span, scaling, dropout) for span in spans]
    return torch.cat(sequences, dim=2).transpose(1, 2).contiguous()


def _learns(sinks: torch.Tensor | None) -> bool:
    return sinks is not None and sinks.requires_grad


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, span: Span, scaling: float, dropout: float
) -> torch.Tensor:
    query, key, value = query[:, :, span.queries], span.visible(key[0])[None], span.visible(value[0])[None]
    is_whole = query.shape[2] == key.shape[2]
    mask = None if is_whole else causal_lower_right(query.shape[2], key.shape[2])
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=is_whole,
        scale=scaling,
        dropout_p=dropout,
        enable_gqa=query.shape[1] != key.shape[1],
    )
