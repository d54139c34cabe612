"""Attention of GPUs that takes all packed sequences in one call: flash-attn's where it is installed, else PyTorch's."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from lorakit.engine.backends.base import VariableLengthAttention

_LARGEST_FLASH_HEAD = 256
_AMPERE = (8, 0)


def variable_length_for(query: torch.Tensor, dropout: float) -> VariableLengthAttention | None:
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
