"""A loaded model's modules given faster forwards of the same values."""

from __future__ import annotations

from typing import Any

from lorakit.engine.layers.attention_layer import accelerate_attention
from lorakit.engine.layers.decoder_layer import accelerate_decoder_layers
from lorakit.engine.layers.last_layer import accelerate_last_layer
from lorakit.engine.layers.lora_linear import accelerate_lora
from lorakit.engine.ops.pointwise import accelerate_pointwise


def accelerate(model: Any) -> None:
    """Let LoRA layers, norms, gated MLPs, rotary embeddings and attention layers compute with the engine's functions.

    Modules that these do not cover keep their own forward. The weights are not touched.
    """
    accelerate_lora(model)
    accelerate_pointwise(model)
    accelerate_attention(model)
    accelerate_decoder_layers(model)
    accelerate_last_layer(model.get_base_model())
