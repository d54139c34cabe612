"""What an adapter may ask for before anything is reserved: no more than its file of weights holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

_SPARE_RANK = 256  # of a default that no layer needs, as each has a rank of its own
# Of safetensors, in which weights may be written; whole numbers read as weights are thousands of millions.
FRACTIONS = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})


def check_bounds(config: Any, weights: Path, base: Any) -> None:
    """Hold ranks and whole modules to what the file of weights has.

    Args:
        config: A ``peft.LoraConfig``.
        weights: A safetensors file.
        base: The model that the adapter is to be put on.

    Raises:
        ValueError: The settings ask for more.
        SafetensorError: The file is damaged.
    """
    from safetensors import safe_open

    with safe_open(weights, framework="pt") as opened:
        shapes = {name: opened.get_slice(name).get_shape() for name in opened.keys()}  # noqa: SIM118 - no mapping
        formats = {name: opened.get_slice(name).get_dtype() for name in shapes}
    whole = next((name for name, written in formats.items() if written not in FRACTIONS), None)
    if whole is not None:
        raise ValueError(f"{whole} is written as {formats[whole]}, which are no weights")
    ranks = [shape[0] for name, shape in shapes.items() if "lora_A" in name or "lora_embedding_A" in name]
    largest = max(ranks, default=0)
    asked = max([config.r, *config.rank_pattern.values()])
    if asked > max(largest, _SPARE_RANK if config.rank_pattern else 0):
        raise ValueError(f"its settings say rank {asked}, its tensors have {largest} at most")
    stored = sum(math.prod(shape) for shape in shapes.values())
    copied = sum(
        parameter.numel()
        for name, module in base.named_modules()
        if any(f".{name}".endswith(f".{saved}") for saved in config.modules_to_save or [])
        for parameter in module.parameters()
    )
    if copied > stored:
        raise ValueError(f"modules_to_save names {copied} numbers of the base, and its file has {stored}")


def is_finite(tensor: torch.Tensor) -> bool:
    """Tell whether every number of a tensor is finite; whole numbers are."""
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    if tensor.itemsize == 1:  # torch adds up no numbers of 8 bits
        tensor = tensor.float()
    if bool(torch.isfinite(tensor.sum(dtype=torch.float32))):
        return True
    return bool(torch.isfinite(tensor).all())  # the sum alone may have grown too large
