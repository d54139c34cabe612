"""What computes a loaded model: the engine as far as it has proven itself on it, its own code for the rest."""

from __future__ import annotations

from typing import Any

import torch

from lorakit import console
from lorakit.agreement import Agreement, agreement_of, use_packed_attention
from lorakit.engine import use_pieces
from lorakit.errors import ModelError
from lorakit.model_config.source import ModelSource

# What it costs where a piece is switched off, by its name; the first that fits is said.
_COSTS = {
    "packing": "rows are computed one by one, which takes longer the shorter they are",
    "attention": "attention is its own, slower for several rows at once",
    "layers": "layers are its own, which is slower on a CPU",
    "loss": "the logits of all trained tokens are held at once, which takes more memory",
    "kept_logits": "logits are computed for all tokens, which takes more memory",
    "beginning": "what all rows begin with is computed for each of them",
    "linears": "adapters are computed by PEFT, which is slower",
    "together": "answers are written one by one",
    "cached": "answers are written without a cache, which takes long for long ones",
}


def let_engine_compute(model: Any, source: ModelSource, dtype: torch.dtype) -> None:
    """Hold the engine against a model's own code, once for each kind of model, and use of it what agrees.

    Args:
        model: On its device, without an adapter.
        source: Of the model.
        dtype: In which it computes.

    Raises:
        ModelError: It is no model that could be trained and asked, or not in this number format.
    """
    found = agreement_of(model, model.device.type, dtype, source.runs_own_code)
    family, kind = model.config.model_type, type(model).__name__
    if found.refusal is not None:
        raise ModelError(
            f"{source.name}: a model of type {family} ({kind}) cannot be used: {found.refusal}",
            "choose another model; docs/families.md lists those that were tried",
        )
    if found.format_fault is not None:
        fault = f"{str(dtype).removeprefix('torch.')}: {found.format_fault}"
        raise ModelError(
            f"{source.name}: a model of type {family} ({kind}) cannot be used in {fault}", "set torch_dtype: float32"
        )
    use_pieces(model, found.pieces)
    if found.pieces.attention:
        use_packed_attention(model)
    for line in switched_off(found):
        console.note(line)


def switched_off(found: Agreement) -> list[str]:
    """Say what the engine leaves to the model's own code, and what that costs."""
    costs = {name: cost for name, cost in _COSTS.items() if name in found.pieces.missing}
    if "packing" in costs:
        costs.pop("beginning", None)
    return [f"{cost} ({name}: {found.faults.get(name) or 'not tried'})" for name, cost in costs.items()]
