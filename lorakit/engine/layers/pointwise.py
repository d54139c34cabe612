"""Norms and gated MLPs of the families that are known, computed by `ops.pointwise`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from lorakit.engine.backends.base import Backend
from lorakit.engine.families import is_known, is_silu
from lorakit.engine.layers.lora_linear import apply_linears
from lorakit.engine.ops.pointwise import RmsNorm, SwiGlu


def is_norm(module: torch.nn.Module, base: Any) -> bool:
    """Whether a module is an RMSNorm of a known family."""
    return is_known(module) and type(module).__name__.endswith("RMSNorm")


def is_gated_mlp(module: torch.nn.Module, base: Any) -> bool:
    """Whether a module is a gated MLP of a known family."""
    return is_known(module) and hasattr(module, "gate_proj") and is_silu(module)


def norm_forward(norm: Any, backend: Backend) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the forward of a norm, which goes back to its own while its weight is trained."""
    own_forward = norm.forward

    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        if norm.weight.requires_grad:
            return own_forward(hidden_states)  # type: ignore[no-any-return]
        return RmsNorm.apply(hidden_states, norm.weight, norm.variance_epsilon, backend)  # type: ignore[no-any-return]

    return forward


def gated_forward(mlp: Any, backend: Backend) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the forward of a gated MLP."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        gate, up = apply_linears(x, (mlp.gate_proj, mlp.up_proj), backend)
        return mlp.down_proj(SwiGlu.apply(gate, up, backend))  # type: ignore[no-any-return]

    return forward
