"""What the engine knows of model families: whose formulas its operations are, and whose rows may be packed."""

from __future__ import annotations

from typing import Any

import torch

# Families whose modules compute exactly the formulas of `ops`.
_KNOWN = ("llama", "mistral", "qwen2", "qwen3", "qwen3_vl")
_MODULES = tuple(f"transformers.models.{family}.modeling_{family}" for family in _KNOWN)
# Families whose packed rows are proven equal to rows one by one; all others are computed one by one.
PACKED_FAMILIES = frozenset({*_KNOWN, "gpt2", "opt"})
# A model with one of these does more to its logits than multiply: the plain loss serves it.
LOGIT_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier_scale")


def is_known(module: torch.nn.Module) -> bool:
    """Whether a module is of a family whose formulas are those of `ops`."""
    return type(module).__module__ in _MODULES


def is_silu(mlp: Any) -> bool:
    """Whether a gated MLP is one that `ops` computes."""
    return mlp.config.hidden_act in {"silu", "swish"}


def has_plain_head(base: Any) -> bool:
    """Whether a model's logits are its hidden states times a matrix, and nothing more."""
    settings = base.config.get_text_config()
    return all(getattr(settings, name, None) in {None, 1} for name in LOGIT_CHANGES)


def isolates_packed_rows(config: Any, longest: int) -> bool:
    """Whether attention is all that connects the tokens of a model, and the mask all that limits attention.

    Convolutions and state-space layers look across the border of two rows whatever the mask says, and a window would
    be lost in the mask; such models take their rows one by one.

    Args:
        config: The model's.
        longest: Tokens of the longest sequence.
    """
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    return config.model_type in PACKED_FAMILIES and (window is None or longest <= window)
