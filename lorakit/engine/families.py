"""Model families whose modules compute exactly the formulas of `ops`."""

from __future__ import annotations

from typing import Any

import torch

_KNOWN = ("llama", "mistral", "qwen2", "qwen3", "qwen3_vl")
_MODULES = tuple(f"transformers.models.{family}.modeling_{family}" for family in _KNOWN)


def is_known(module: torch.nn.Module) -> bool:
    """Whether a module is of a family whose formulas are those of `ops`."""
    return type(module).__module__ in _MODULES


def is_silu(mlp: Any) -> bool:
    """Whether a gated MLP is one that `ops` computes."""
    return mlp.config.hidden_act in {"silu", "swish"}
