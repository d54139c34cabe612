"""A model whose files hold its weights in fewer bits, read into one that has them in full."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from lorakit import console
from lorakit.model_config.source import ModelSource, weight_files
from lorakit.model_config.weights.sizes import weight_bytes
from lorakit.model_config.weights.stored_tensors import NARROW, narrow_method, stored_tensors


def quantizer_of(source: ModelSource) -> str | None:
    """Return the name of transformers' settings by which it widens the weights; None where they are whole."""
    method = narrow_method(source.folder)
    return None if method is None else NARROW[method][1]


def is_narrow(source: ModelSource) -> bool:
    """Whether a model's files hold its weights in fewer bits that are widened here."""
    return narrow_method(source.folder) is not None


def say_widened(source: ModelSource, dtype: torch.dtype) -> None:
    """Say what it costs, before it is paid."""
    kind = NARROW[narrow_method(source.folder) or ""][0]
    stored = sum(file.stat().st_size for file in weight_files(source.folder))
    wide, name = weight_bytes(source, dtype), str(dtype).removeprefix("torch.")
    console.note(
        f"{source.name}: its files are in {kind} ({stored / 1e9:.2f} GB) and are widened to {name}, as no gradient is "
        f"computed through {kind}: {wide / 1e9:.2f} GB in memory"
    )


def read_widened(
    source: ModelSource, kind: Any, dtype: torch.dtype, arguments: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Read a model as transformers reads whole weights, each tensor widened when its turn comes.

    Args:
        source: Of the model.
        kind: Its class in transformers, or one of the automatic classes.
        dtype: Of the model.
        arguments: More of ``from_pretrained``.

    Returns:
        The model, and what transformers says of the loading.
    """
    from transformers import AutoConfig, GenerationConfig, PreTrainedModel

    config = AutoConfig.from_pretrained(source.folder, local_files_only=True, trust_remote_code=source.runs_own_code)
    for part in (config, config.get_text_config()):
        if hasattr(part, "quantization_config"):
            del part.quantization_config
    if not issubclass(kind, PreTrainedModel):
        with torch.device("meta"):
            kind = type(kind.from_config(config, trust_remote_code=source.runs_own_code))
    tensors = stored_tensors(source.folder, dtype)
    model, report = kind.from_pretrained(
        None, config=config, state_dict=tensors, dtype=dtype, output_loading_info=True, **arguments
    )
    if (source.folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(source.folder, local_files_only=True)
    return model, report
