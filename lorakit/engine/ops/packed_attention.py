"""Attention over packed rows: each sequence by itself, without a mask over the whole row.

Plugged into every model of transformers through `AttentionInterface`. The lengths of the sequences travel as a keyword
argument down to each layer; without it (in generation) transformers' own SDPA computes. Three ways to compute:

- on a GPU, one call for all sequences: by flash-attn where it is installed, else by PyTorch's variable-length
  attention, where number format and head size allow it;
- on a CPU, `RowAttention`;
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

from lorakit.engine.ops.limited_attention import Limits, attend_by_scores, attend_span
from lorakit.engine.ops.row_attention import RowAttention, Span

PACKED = "lorakit_packed"
# Stands in for the mask of a packed row, which would grow with the square of the row. Nothing ever attends by it.
NO_MASK = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
_LARGEST_FLASH_HEAD = 256
_AMPERE = (8, 0)


@dataclass(frozen=True)
class PackedRows:
    """Where the sequences of a packed row lie; an object of its own, so that a compiled layer serves any lengths.

    Attributes:
        lengths: Tokens of each sequence, without those it shares.
        shared: Tokens at the start of the packed row with which every sequence begins.
        tails: Tokens at the end of each sequence that the last layer is wanted for; None for all of them.
        wanted: The same tokens by their places in the packed row, [sum of tails].
    """

    lengths: tuple[int, ...]
    shared: int = 0
    tails: tuple[int, ...] | None = None
    wanted: torch.Tensor | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence, with those it shares."""
        return self.shared + max(self.lengths)

    def spans(self, is_tail: bool) -> tuple[Span, ...]:
        """Return the sequences one by one, the shared tokens as the first where there are any.

        Args:
            is_tail: Whether only the wanted tokens have queries.
        """
        lengths = (self.shared, *self.lengths) if self.shared else self.lengths
        asking = lengths
        if is_tail and self.tails is not None:
            asking = (0, *self.tails) if self.shared else self.tails
        spans, query, key = [], 0, 0
        for asked, tokens in zip(asking, lengths, strict=True):
            shared = self.shared if key else 0
            spans.append(Span(slice(query, query + asked), slice(key, key + tokens), shared))
            query, key = query + asked, key + tokens
        return tuple(spans)


# (query, key, value, row lengths, scaling) to [1, tokens, heads, head size]; the first three as in `packed_attention`
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
    packed_rows: PackedRows | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each packed sequence; the signature is that of transformers' attention functions.

    Args:
        module: The attention layer.
        query: [1, heads, tokens, head size]; in the last layer those of the wanted tokens.
        key: [1, key heads, tokens, head size]
        value: [1, key heads, tokens, head size]
        attention_mask: Used only where ``packed_rows`` is absent.
        scaling: Of the products; None for one over the root of the head size.
        dropout: On the probabilities.
        packed_rows: Where the sequences lie.
        kwargs: What else the layer gives: see `Limits.of`. Passed on to SDPA.

    Returns:
        [1, tokens, heads, head size], and None for the probabilities.

    Raises:
        RuntimeError: The model lost the row lengths on their way here; to go on would mix the sequences.
    """
    if packed_rows is None:
        return _attend_by_mask(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    limits = Limits.of(module, kwargs)
    is_tail = packed_rows.tails is not None and query.shape[2] < key.shape[2]
    spans = packed_rows.spans(is_tail)
    if limits.applies_to(packed_rows.longest) or query.shape[-1] != value.shape[-1]:
        limited = [attend_span(query, key, value, span, scale, dropout, limits) for span in spans]
        return torch.cat(limited, dim=2).transpose(1, 2).contiguous(), None
    attend_all = None if packed_rows.shared or is_tail else _serving(query, dropout)
    if attend_all is not None:
        return attend_all(query, key, value, packed_rows.lengths, scale), None
    if query.device.type == "cpu" and dropout == 0:
        return RowAttention.apply(query, key, value, spans, scale), None
    rows = [_attend(query, key, value, span, scale, dropout) for span in spans]
    return torch.cat(rows, dim=2).transpose(1, 2).contiguous(), None


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
        raise RuntimeError(f"{type(module).__name__} does not pass on the row lengths of a packed row")
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
    query, key, value = query[:, :, span.asking], span.seen(key[0])[None], span.seen(value[0])[None]
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
    return over_rows(flash_attn_varlen_func, lambda _: {"causal": True}, scale_name="softmax_scale")


def torch_variable_length_attention() -> VariableLengthAttention | None:
    """Return PyTorch's own; None where this version has none, or none for grouped heads."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    if "enable_gqa" not in inspect.signature(varlen_attn).parameters:
        return None
    return over_rows(
        varlen_attn, lambda is_grouped: {"window_size": (-1, 0), "enable_gqa": is_grouped}, scale_name="scale"
    )


def over_rows(
    kernel: Callable[..., torch.Tensor], settings: Callable[[bool], dict[str, Any]], scale_name: str
) -> VariableLengthAttention:
    """Adapt a kernel that takes [tokens, heads, head size] and the places where sequences start.

    Args:
        kernel: flash-attn's or PyTorch's.
        settings: What makes it causal, for grouped heads or not.
        scale_name: What it calls the scaling.
    """

    def attend(
        query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, row_lengths: tuple[int, ...], scaling: float
    ) -> torch.Tensor:
        starts = _starts(row_lengths, query.device)
        longest = max(row_lengths)
        flat = [tensor[0].transpose(0, 1) for tensor in (query, key, value)]  # [tokens, heads, head size]
        given = settings(query.shape[1] != key.shape[1]) | {scale_name: scaling}
        return kernel(*flat, starts, starts, longest, longest, **given)[None]

    return attend


@lru_cache(maxsize=8)
def _starts(row_lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where each sequence begins, and the end of the last: [sequences + 1]; the same for all layers of a pass."""
    return torch.tensor((0, *row_lengths), device=device).cumsum(0, dtype=torch.int32)


def register_packed_attention() -> None:
    """Make the implementation known to transformers under the name `PACKED`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, sdpa_mask)
