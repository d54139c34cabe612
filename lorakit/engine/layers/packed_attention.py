"""Attention over packed rows, plugged into every model of transformers through `AttentionInterface`.

Where the sequences lie travels as a keyword argument down to each layer; without it (in generation) transformers' own
SDPA computes.
"""

from __future__ import annotations

from typing import Any

import torch

from lorakit.engine.backends.operands import Limits
from lorakit.engine.ops.attention import Packed, attend_packed
from lorakit.engine.ops.limited_attention import attend_by_scores

PACKED = "lorakit_packed"
# Stands in for the mask of a packed row, which would grow with the square of the row. Nothing ever attends by it.
NO_MASK = torch.zeros(1, 1, 1, 1, dtype=torch.bool)


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
        kwargs: What else the layer gives: see `limits_of`. Passed on to SDPA.

    Returns:
        [1, tokens, heads, head size], and None for the probabilities.

    Raises:
        RuntimeError: The model lost the lengths of sequences on their way here; to go on would mix the sequences.
    """
    if packed is None:
        return _attend_by_mask(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attend_packed(query, key, value, packed, scale, dropout, limits_of(module, kwargs)), None


def limits_of(module: Any, given: dict[str, Any]) -> Limits:
    """Read what transformers' attention layers hand to their attention function by name; chunks are settings."""
    sinks = given.get("s_aux") if given.get("s_aux") is not None else given.get("sinks")
    return Limits(given.get("sliding_window") or None, _chunk_of(module), given.get("softcap") or None, sinks)


def _chunk_of(module: Any) -> int | None:
    """Return the chunk of an attention layer, as most of Llama 4's have one."""
    settings = getattr(module, "config", None)
    kinds, number = getattr(settings, "layer_types", None), getattr(module, "layer_idx", None)
    is_chunked = kinds and number is not None and kinds[number] == "chunked_attention"
    return (getattr(settings, "attention_chunk_size", None) or None) if is_chunked else None


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
    limits = limits_of(module, kwargs)
    if limits.bends():
        scale = query.shape[-1] ** -0.5 if kwargs["scaling"] is None else kwargs["scaling"]
        if mask is None and query.shape[2] > 1:
            tokens, asking = key.shape[2], query.shape[2]
            mask = torch.ones(asking, tokens, dtype=torch.bool, device=query.device).tril(tokens - asking)[None, None]
        mask = None if mask is None else mask[..., : key.shape[2]]
        output = attend_by_scores(query, key, value, mask, scale, kwargs["dropout"], limits)
        return output.transpose(1, 2).contiguous(), None
    return sdpa_attention_forward(module, query, key, value, mask, **kwargs)[0], None


def register_packed_attention() -> None:
    """Make the implementation known to transformers under the name `PACKED`."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(PACKED, packed_attention)
    AttentionMaskInterface.register(PACKED, sdpa_mask)
