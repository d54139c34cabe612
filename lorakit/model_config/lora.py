"""LoRA (Hu et al., 2021, arXiv 2106.09685) on a base model, by PEFT."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from lorakit.config import Config
from lorakit.engine import accelerate
from lorakit.errors import SettingsError
from lorakit.model_config.loading import ModelBundle

ALL_LINEAR = "all-linear"


def linear_layers(model: Any) -> Counter[str]:
    """Count the linear layers of a model by the last part of their name, the output projection left out."""
    output = model.get_output_embeddings()
    return Counter(
        name.rpartition(".")[2] for name, module in model.named_modules() if _is_linear(module) and module is not output
    )


def attach_new_adapter(bundle: ModelBundle, config: Config) -> Any:
    """Wrap the bundle's model with a fresh, trainable adapter in float32.

    Raises:
        SettingsError: A target module does not exist in the model.
    """
    from peft import LoraConfig, get_peft_model

    targets, alpha = config.target_modules, config.lora_alpha
    if targets != ALL_LINEAR:
        _check_targets(bundle, targets)  # type: ignore[arg-type]
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # other tools expect 16, not 16.0
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        fan_in_fan_out=_is_transposed(bundle.model),
    )
    adapted = get_peft_model(bundle.model, lora)
    accelerate(adapted)
    adapted.peft_config["default"].base_model_name_or_path = bundle.source.reference
    return adapted


def _is_linear(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def _is_transposed(model: Any) -> bool:
    """GPT-2 keeps its weights as [in, out] in Conv1D layers; PEFT wants to be told."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def _check_targets(bundle: ModelBundle, targets: list[str]) -> None:
    layers = [name for name, module in bundle.model.named_modules() if _is_linear(module)]
    absent = [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in layers)]
    if absent:
        found = ", ".join(f"{name} ({count})" for name, count in linear_layers(bundle.model).items())
        raise SettingsError(
            f"target_modules: {bundle.source.name} has no layer named {', '.join(absent)}; its linear layers: {found}",
            "name some of these, or set target_modules: all-linear",
        )
