"""Attention layers over packed rows, with the three projections of one input in one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lorakit.engine.backends.base import Backend
from lorakit.engine.families import is_known
from lorakit.engine.layers.lora_linear import apply_linears
from lorakit.engine.layers.packed_attention import packed_attention
from lorakit.engine.ops.attention import Packed
from lorakit.engine.ops.pointwise import rope

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def matches(module: torch.nn.Module, base: Any) -> bool:
    """Whether a module is an attention layer of a known family; without packed rows it keeps its own forward."""
    return is_known(module) and all(hasattr(module, name) for name in PROJECTIONS)


def packed_forward(attention: Any, backend: Backend) -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
    """Return the forward of an attention layer."""
    own_forward = attention.forward

    def forward(
        hidden_states: torch.Tensor, packed: Packed | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if packed is None:
            return own_forward(hidden_states, **kwargs)  # type: ignore[no-any-return]
        return attend(attention, hidden_states, packed, *kwargs["position_embeddings"]), None

    return forward


def attend(
    attention: Any,
    hidden: torch.Tensor,
    packed: Packed,
    cos: torch.Tensor,
    sin: torch.Tensor,
    wanted: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute what an attention layer does to packed rows.

    Args:
        attention: Of a family that is known.
        hidden: [1, tokens, hidden]
        packed: Where the sequences lie, and who computes.
        cos: Of the tokens' positions, [1, tokens, head size].
        sin: The same.
        wanted: The tokens that have queries, [wanted]; None for all of them.

    Returns:
        [1, wanted, hidden]
    """
    q_proj, k_proj, v_proj = attention.q_proj, attention.k_proj, attention.v_proj
    if wanted is None:
        query, key, value = apply_linears(hidden, (q_proj, k_proj, v_proj), packed.backend)
        query_cos, query_sin = cos, sin
    else:
        [query] = apply_linears(hidden[:, wanted], (q_proj,), packed.backend)
        key, value = apply_linears(hidden, (k_proj, v_proj), packed.backend)
        query_cos, query_sin = cos[:, wanted], sin[:, wanted]
    output, _ = packed_attention(
        attention,
        rope(split_heads(attention, query, "q_norm"), query_cos, query_sin, packed.backend),
        rope(split_heads(attention, key, "k_norm"), cos, sin, packed.backend),
        split_heads(attention, value),
        None,
        scaling=attention.scaling,
        dropout=attention.attention_dropout if attention.training else 0.0,
        packed=packed,
        sliding_window=window_of(attention),
    )
    return attention.o_proj(output.flatten(2))  # type: ignore[no-any-return]


def window_of(attention: Any) -> int | None:
    """Return how many tokens a token of an attention layer sees, itself included; None where it sees all before it."""
    window = getattr(attention, "sliding_window", None)
    if window is None and attention.config.model_type == "mistral":  # which has it in its settings alone
        window = getattr(attention.config, "sliding_window", None)
    return window or None


def split_heads(attention: Any, projected: torch.Tensor, norm_name: str | None = None) -> torch.Tensor:
    """Split [1, tokens, heads * size] into heads, normed where the family has such a norm: [1, heads, tokens, size]."""
    split = projected.view(1, projected.shape[1], -1, attention.head_dim)
    norm = getattr(attention, norm_name, None) if norm_name else None
    return (split if norm is None else norm(split)).transpose(1, 2)
