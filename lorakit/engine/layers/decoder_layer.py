"""Decoder layers over packed rows by `residual_blocks`, where all that they consist of is covered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lorakit.engine.backends.base import Backend
from lorakit.engine.backends.operands import UNLIMITED, Limits, Norm
from lorakit.engine.families import is_known, is_silu
from lorakit.engine.layers.attention_layer import PROJECTIONS, window_of
from lorakit.engine.layers.lora_linear import covered_projections
from lorakit.engine.layout import PackedLayout
from lorakit.engine.ops.attention import Packed
from lorakit.engine.ops.residual_blocks import Heads, add_attention, add_mlp

_NORMS = ("input_layernorm", "post_attention_layernorm")


def matches(module: torch.nn.Module, base: Any) -> bool:
    """Whether a module is a decoder layer of a known family.

    It keeps its own forward for all but packed rows with gradients: while it is compiled, and where a part of it is
    trained, quantised or watched.
    """
    return (
        is_known(module)
        and all(hasattr(module, name) for name in (*_NORMS, "self_attn", "mlp"))
        and hasattr(module.mlp, "gate_proj")
        and is_silu(module.mlp)
    )


def packed_forward(layer: Any, _: Backend) -> Callable[..., torch.Tensor]:
    """Return the forward of a decoder layer: two functions where they serve."""
    own_forward = layer.forward

    def forward(hidden_states: torch.Tensor, packed: Packed | None = None, **kwargs: Any) -> torch.Tensor:
        if packed is not None and packed.backend.fuses_layers and _is_served(layer, hidden_states):
            linears = [getattr(layer.self_attn, name) for name in PROJECTIONS]
            linears += [layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj]
            projections = covered_projections(linears, hidden_states.shape[1])
            if projections is not None:
                backend = packed.backend
                heads = _heads(layer.self_attn, packed.layout, *kwargs["position_embeddings"])
                x = add_attention(hidden_states[0], _norm(layer.input_layernorm), heads, projections[:4], backend)
                return add_mlp(x, _norm(layer.post_attention_layernorm), projections[4:], backend)[None]
        given = {} if packed is None else {"packed": packed}
        return own_forward(hidden_states, **given, **kwargs)  # type: ignore[no-any-return]

    return forward


def _is_served(layer: Any, hidden: torch.Tensor) -> bool:
    """Whether the two functions compute what the layer would, and are of use."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not (layer.training and layer.self_attn.attention_dropout)
        and hidden.dtype is layer.input_layernorm.weight.dtype
        and not any(_is_watched(part) for part in (layer.self_attn, layer.mlp))
        and not any(_is_watched(norm) or norm.weight.requires_grad for norm in _norms(layer))
    )


def _norms(layer: Any) -> list[Any]:
    of_heads = (getattr(layer.self_attn, name, None) for name in ("q_norm", "k_norm"))
    return [layer.input_layernorm, layer.post_attention_layernorm, *filter(None, of_heads)]


def _is_watched(part: Any) -> bool:
    return bool(part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks)


def _heads(attention: Any, layout: PackedLayout, cos: torch.Tensor, sin: torch.Tensor) -> Heads:
    limits = Limits(window_of(attention))
    query_norm, key_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return Heads(
        attention.head_dim,
        attention.scaling,
        layout.spans,
        cos[:, None],
        sin[:, None],
        query_norm and _norm(query_norm),
        key_norm and _norm(key_norm),
        limits if limits.applies_to(layout.longest) else UNLIMITED,
    )


def _norm(module: Any) -> Norm:
    return Norm(module.weight, module.variance_epsilon)
