"""Frozen base weights in 4 or 8 bits, by bitsandbytes; the adapter on top of them stays float32.

Sources: Dettmers et al., 2023, "QLoRA", arXiv 2305.14314; Dettmers et al., 2022, "LLM.int8()", arXiv 2208.07339.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch

from lorakit.config import Config
from lorakit.errors import SettingsError
from lorakit.invocation import installing


def quantization_of(config: Config, device: torch.device | None = None) -> str | None:
    """Return 4bit, 8bit, or None.

    Args:
        config: Of the task.
        device: Where the model is to be loaded; None where none is.

    Raises:
        SettingsError: Both are set, the package is missing, or the device cannot compute it rightly.
    """
    if config.load_in_4bit and config.load_in_8bit:
        raise SettingsError("load_in_4bit and load_in_8bit are both set", "set one of them")
    chosen = "4bit" if config.load_in_4bit else "8bit" if config.load_in_8bit else None
    if chosen and importlib.util.find_spec("bitsandbytes") is None:
        raise SettingsError(f"load_in_{chosen}: needs bitsandbytes, which is not installed", installing("quantized"))
    if chosen == "4bit" and device is not None and device.type == "cpu":
        # Where a module is in evaluation mode, its weights are packed anew for a kernel without a backward pass.
        raise SettingsError(
            "load_in_4bit: not on a CPU, where bitsandbytes changes the weights between training and validation",
            "leave it out, set load_in_8bit, or use a GPU",
        )
    return chosen


def loading_arguments(quantization: str | None, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return what ``from_pretrained`` takes for quantised weights."""
    if quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=quantization == "4bit",
        load_in_8bit=quantization == "8bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": settings, "device_map": {"": device}}
