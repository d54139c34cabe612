"""Attention over packed rows: each sequence by itself, without a mask over the whole row.

Plugged into every model of transformers through `AttentionInterface`. The lengths of the sequences travel as a keyword
argument down to each layer; without it (in generation) transformers' own SDPA computes. Three ways to compute:

- on a GPU, one call for all sequences: by flash-attn where it is installed, else by PyTorch's variable-length
  attention, where number format and head size allow it;
- where the backend attends to packed rows itself, `PackedAttention`;
- otherwise SDPA, sequence by sequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from lorakit.engine.backends.base import Backend
from lorakit.engine.backends.operands import AttentionInputs
from lorakit.engine.layout import PackedLayout, Span
from lorakit.engine.ops.limited_attention import Limits, attend_by_scores, attend_span

PACKED = "lorakit_packed"
# Stands in for the mask of a packed row, which would grow with the square of the row. Nothing ever attends by it.
NO_MASK = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
_LARGEST_FLASH_HEAD = 256
_AMPERE = (8, 0)


@dataclass(frozen=True)
class Packed:
    """What travels down to each attention layer of a packed row; an object, so that a compiled layer serves any row."""

    layout: PackedLayout
    backend: Backend


class PackedAttention(torch.autograd.Function):
    """Causal attention within each sequence of a packed row, with grouped heads."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        spans: tuple[Span, ...],
        scaling: float,
        backend: Backend,
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

        Returns:
            [1, queries, heads, head size]
        """
        inputs = AttentionInputs(query[0], key[0], value[0], spans, scaling)
        output, *kept = backend.attention(inputs)
        ctx.save_for_backward(inputs.query, inputs.key, inputs.value, *kept)
        ctx.spans, ctx.scaling, ctx.backend = spans, scaling, backend
        return output[None]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of query, key and value."""
        query, key, value, *kept = ctx.saved_tensors
        inputs = AttentionInputs(query, key, value, ctx.spans, ctx.scaling)
        gradients = ctx.backend.attention_backward(inputs, grad[0], kept)
        return *(gradient[None] for gradient in gradients), None, None, None


# (query, key, value, seqlens, scaling) to [1, tokens, heads, head size]; the first three as in `packed_attention`
VariableLengthAttention = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, tuple[int, ...], float],
    torch.Tensor,
]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # its sizes change with every packed row
def packed_attention(  # noqa: PLR0913, PLR0917 - the signature is that of transformers
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed: Packed | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each packed sequence; the signature is that of transformers' attention functions.

    Args:
        module: The attention layer.
        query: [1, heads, tokens, head size]; in the last layer those of the wanted tokens.
        key: [1, key heads, tokens, head size]
        value: [1, key heads, tokens, head size]
        attention_mask: Used only where ``packed`` is absent.
        scaling: Of the products; None for one over the root of the head size.
        dropout: On the probabilities.
        packed: Where the sequences lie, and who computes.
        kwargs: What else the layer gives: see `Limits.of`. Passed on to SDPA.

    Returns:
        [1, tokens, heads, head size], and None for the probabilities.

    Raises:
        RuntimeError: The model lost the lengths of sequences on their way here; to go on would mix the sequences.
    """
    if packed is None:
        return _attend_by_mask(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    layout, backend = packed.layout, packed.backend
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    limits = Limits.of(module, kwargs)
    is_tail = layout.tails is not None and query.shape[2] < key.shape[2]
    spans = layout.tail_spans if is_tail else layout.spans
    if limits.applies_to(layout.longest) or query.shape[-1] != value.shape[-1]:
        limited = [attend_span(query, key, value, span, scale, dropout, limits) for span in spans]
        return torch.cat(limited, dim=2).transpose(1, 2).contiguous(), None
    attend_all = None if layout.prefix_len or is_tail else _serving(query, dropout)
    if attend_all is not None:
        return attend_all(query, key, value, layout.seqlens, scale), None
    if backend.attends_packed and dropout == 0:
        return PackedAttention.apply(query, key, value, spans, scale, backend), None
    sequences = [_attend(query, key, value, span, scale, dropout) for span in spans]
    return torch.cat(sequences, dim=2).transpose(1, 2).contiguous(), None


def _attend_by_mask(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if mask is not None and mask.numel() == 1 < key.shape[2]:
        raise RuntimeError(f"{type(module).__name__} does not pass on the lengths of sequences of a packed row")
    limits = Limits.of(module, kwargs)
    if limits.bends():
        scale = query.shape[-1] ** -0.5 if kwargs["scaling"] is None else kwargs["scaling"]
        if mask is None and query.shape[2] > 1:
            tokens, asking = key.shape[2], query.shape[2]
            mask = torch.ones(asking, tokens, dtype=torch.bool, device=query.device).tril(tokens - asking)[None, None]
        mask = None if mask is None else mask[..., : key.shape[2]]
        output = attend_by_scores(query, key, value, mask, scale, kwargs["dropout"], limits)
        return output.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0], None


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


def _serving(query: torch.Tensor, dropout: float) -> VariableLengthAttention | None:
    """Return the variable-length attention that serves these queries, if one does."""
    is_served = (
        query.device.type == "cuda"
        and query.dtype in {torch.float16, torch.bfloat16}
        and dropout == 0
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= _LARGEST_FLASH_HEAD
    )
    return variable_length_attention(query.device) if is_served else None


@lru_cache(maxsize=8)
def variable_length_attention(device: torch.device) -> VariableLengthAttention | None:
    """Find the implementation for a GPU; None before Ampere, and with a torch that has none."""
    if torch.cuda.get_device_capability(device) < _AMPERE:
        return None
    try:
        from flash_attn import flash_attn_varlen_func  # type: ignore[import-not-found]
    except ImportError:
        return torch_variable_length_attention()
    return over_sequences(flash_attn_varlen_func, lambda _: {"causal": True}, scale_name="softmax_scale")


def torch_variable_length_attention() -> VariableLengthAttention | None:
    """Return PyTorch's own; None where this version has none, or none for grouped heads."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    if "enable_gqa" not in inspect.signature(varlen_attn).parameters:
        return None
    return over_sequences(
        varlen_attn, lambda is_grouped: {"window_size": (-1, 0), "enable_gqa": is_grouped}, scale_name="scale"
    )


def over_sequences(
    kernel: Callable[..., torch.Tensor], settings: Callable[[bool], dict[str, Any]], scale_name: str
) -> VariableLengthAttention:
    """Adapt a kernel that takes [tokens, heads, head size] and the places where sequences start.

    Args:
        kernel: flash-attn's or PyTorch's.
        settings: What makes it causal, for grouped heads or not.
        scale_name: What it calls the scaling.
    """

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seqlens: tuple[int, ...], scaling: float
    ) -> torch.Tensor:
        starts = _starts(seqlens, query.device)
        longest = max(seqlens)
        flat = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # [tokens, heads, head size]
        given = settings(query.shape[1] != key.shape[1]) | {scale_name: scaling}
        return kernel(*flat, starts, starts, longest, longest, **given)[None]

    return attend


@lru_cache(maxsize=8)
def _starts(seqlens: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where each sequence begins, and the end of the last: [sequences + 1]; the same for all layers of a pass."""
    return torch.tensor((0, *seqlens), device=device).cumsum(0, dtype=torch.int32)


def register_packed_attention() -> None:
    """Make the implementation known to transformers under the name `PACKED`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, sdpa_mask)
