"""Attention layers over packed rows, with the three projections of one input in one function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lorakit.engine.layers.lora_linear import apply_linears
from lorakit.engine.ops.packed_attention import PackedRows, packed_attention
from lorakit.engine.ops.pointwise import is_known, rotated_by

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")


def accelerate_attention(model: torch.nn.Module) -> int:
    """Let the attention layers of the families in `pointwise` compute packed rows by `attend`.

    Without packed rows, in generation, they keep their own forward.

    Returns:
        How many layers were prepared.
    """
    layers = [
        module
        for module in model.modules()
        if is_known(module) and "forward" not in vars(module) and all(hasattr(module, name) for name in PROJECTIONS)
    ]
    for layer in layers:
        layer.forward = _packed_forward(layer)
    return len(layers)


def _packed_forward(attention: Any) -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
    own_forward = attention.forward

    def forward(
        hidden_states: torch.Tensor, packed_rows: PackedRows | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if packed_rows is None:
            return own_forward(hidden_states, **kwargs)  # type: ignore[no-any-return]
        return attend(attention, hidden_states, packed_rows, *kwargs["position_embeddings"]), None

    return forward


def attend(
    attention: Any,
    hidden: torch.Tensor,
    packed_rows: PackedRows,
    cos: torch.Tensor,
    sin: torch.Tensor,
    wanted: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute what an attention layer does to packed rows.

    Args:
        attention: Of a family in `pointwise`.
        hidden: [1, tokens, hidden]
        packed_rows: Where the sequences lie.
        cos: Of the tokens' positions, [1, tokens, head size].
        sin: The same.
        wanted: The tokens that have queries, [wanted]; None for all of them.

    Returns:
        [1, wanted, hidden]
    """
    q_proj, k_proj, v_proj = attention.q_proj, attention.k_proj, attention.v_proj
    if wanted is None:
        query, key, value = apply_linears(hidden, (q_proj, k_proj, v_proj))
        query_cos, query_sin = cos, sin
    else:
        [query] = apply_linears(hidden[:, wanted], (q_proj,))
        key, value = apply_linears(hidden, (k_proj, v_proj))
        query_cos, query_sin = cos[:, wanted], sin[:, wanted]
    output, _ = packed_attention(
        attention,
        rotated_by(split_heads(attention, query, "q_norm"), query_cos, query_sin),
        rotated_by(split_heads(attention, key, "k_norm"), cos, sin),
        split_heads(attention, value),
        None,
        scaling=attention.scaling,
        dropout=attention.attention_dropout if attention.training else 0.0,
        packed_rows=packed_rows,
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
