"""What the weights of a model take: before they are loaded, and where they would be held in fewer bits."""

from __future__ import annotations

import math
import struct
from typing import Any

import torch

from lorakit.config import Config
from lorakit.model_config.source import ModelSource
from lorakit.model_config.weights.stored_tensors import tensor_shapes

# By bitsandbytes, with the scales of a row or a block; the gentler kind first.
_BYTES_PER_WEIGHT = {"8bit": 1.01, "4bit": 0.52}
# Parts of the names of embeddings and output projections, which stay as they are.
_KEPT_WHOLE = ("embed", "lm_head", "wte", "wpe")


def fewer_bits(config: Config) -> dict[str, dict[str, Any]]:
    """Return the kinds of weights smaller than those that are set, each with the settings that choose it."""
    choices: dict[str, dict[str, Any]] = {
        "8bit": {"load_in_8bit": True},
        "4bit": {"load_in_4bit": True} | ({"load_in_8bit": False} if config.load_in_8bit else {}),
    }
    if config.load_in_4bit:
        return {}
    return {kind: changes for kind, changes in choices.items() if kind == "4bit" or not config.load_in_8bit}


def weight_bytes(source: ModelSource, dtype: torch.dtype, kind: str | None = None) -> int:
    """Return what the weights will take on the device, from the headers of their files.

    Args:
        source: Of the model.
        dtype: Of weights that are not quantised.
        kind: 4bit, 8bit, or None.

    Returns:
        Bytes; 0 where a file is damaged, as loading it will say.
    """
    try:
        shapes = list(tensor_shapes(source.folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError):
        return 0
    whole = float(dtype.itemsize)
    taken = (
        math.prod(shape) * (_BYTES_PER_WEIGHT[kind] if kind and _is_linear(name, len(shape)) else whole)
        for name, shape in shapes
    )
    return int(sum(taken))


def bytes_saved(model: Any, kind: str) -> int:
    """Return how much less the weights of a model that is loaded would take in 8bit or 4bit."""
    return int(
        sum(
            parameter.numel() * max(parameter.element_size() - _BYTES_PER_WEIGHT[kind], 0.0)
            for name, parameter in model.named_parameters()
            if _is_linear(name, parameter.dim()) and ".lora_" not in name
        )
    )


def _is_linear(name: str, dimensions: int) -> bool:
    return dimensions == 2 and not any(part in name for part in _KEPT_WHOLE)
