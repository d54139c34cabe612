"""A loaded model's modules given faster forwards of the same values."""

from __future__ import annotations

from typing import Any

from lorakit.engine.layers.attention_layer import accelerate_attention
from lorakit.engine.layers.decoder_layer import accelerate_decoder_layers
from lorakit.engine.layers.last_layer import accelerate_last_layer
from lorakit.engine.layers.lora_linear import accelerate_lora
from lorakit.engine.ops.pointwise import accelerate_pointwise
from lorakit.engine.pieces import pieces_of


def accelerate(model: Any) -> None:
    """Let LoRA layers, norms, gated MLPs, rotary embeddings and attention layers compute with the engine's functions.

    Modules that these do not cover keep their own forward, and so do those of a model that they do not serve (see
    `pieces`). The weights are not touched.
    """
    pieces = pieces_of(model.get_base_model())
    if pieces.linears:
        accelerate_lora(model)
    if pieces.layers:
        accelerate_pointwise(model)
        accelerate_attention(model)
        accelerate_decoder_layers(model)
        accelerate_last_layer(model.get_base_model())
