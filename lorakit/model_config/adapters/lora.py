"""LoRA (Hu et al., 2021, arXiv 2106.09685) on a base model, by PEFT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from lorakit import console
from lorakit.agreement import adaptable_targets, language_layers
from lorakit.config import Config
from lorakit.engine import accelerate
from lorakit.errors import SettingsError
from lorakit.model_config.adapters.layer_names import pattern_of
from lorakit.model_config.added_tokens import begin_rows, token_rows
from lorakit.model_config.image_processor import VISION_FAMILIES
from lorakit.model_config.loading import ModelBundle, load_tokenizer

ALL_LINEAR = "all-linear"


def linear_layers(model: Any) -> Counter[str]:
    """Count the linear layers of the language model by the last part of their name, the output projection left out."""
    return Counter(name.rpartition(".")[2] for name, _ in language_layers(model))


def attach_new_adapter(bundle: ModelBundle, config: Config) -> Any:
    """Wrap the bundle's model with a fresh, trainable adapter in float32.

    Raises:
        SettingsError: A target module does not exist in the model, or cannot be adapted by these settings.
    """
    from peft import LoraConfig, get_peft_model

    targets, alpha = config.target_modules, config.lora_alpha
    if targets != ALL_LINEAR:
        _check_targets(bundle, targets)  # type: ignore[arg-type]
    experts = adaptable_targets(bundle.model)[1] if targets == ALL_LINEAR else []
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora_r,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # other tools expect 16, not 16.0
        lora_dropout=0.0 if experts else config.lora_dropout,
        target_modules=_within_parts(bundle, config) if bundle.family in VISION_FAMILIES else _targets(bundle, config),
        target_parameters=experts or None,
        fan_in_fan_out=_is_transposed(bundle.model),
        trainable_token_indices=token_rows(bundle.model, bundle.tokenizer, config.add_tokens),
    )
    try:
        adapted = get_peft_model(bundle.model, lora)
    except ValueError as error:  # some layers of some types are taken apart by the model's own code
        raise SettingsError(
            f"{config.model_name_or_path}: PEFT cannot adapt these layers so ({error})",
            "set target_modules: all-linear, or name other ones",
        ) from error
    if experts and config.lora_dropout:
        _drop_out_of_layers(adapted, config.lora_dropout)
    if config.add_tokens:
        begin_rows(adapted, load_tokenizer(bundle.source), config.add_tokens)
    accelerate(adapted)
    adapted.create_or_update_model_card = _write_no_card
    adapted.peft_config["default"].base_model_name_or_path = bundle.source.reference
    return adapted


def _targets(bundle: ModelBundle, config: Config) -> list[str] | str:
    """Return the layers of the language model that are adapted, as names where those choose no other layer."""
    model, targets = bundle.model, config.target_modules
    everywhere = [name for name, _ in model.named_modules() if name]
    if targets == ALL_LINEAR:
        chosen, _ = adaptable_targets(model)
        names = sorted({name.rpartition(".")[2] for name in chosen})
    else:
        names = list(targets)
        chosen = [name for name, _ in language_layers(model) if _is_named(name, names)]
    is_enough = chosen == [name for name in everywhere if _is_named(name, names)]
    return names if is_enough else pattern_of(chosen, everywhere)


def _is_named(layer: str, targets: Sequence[str]) -> bool:
    return any(f".{layer}".endswith(f".{target}") for target in targets)


def _drop_out_of_layers(adapted: Any, probability: float) -> None:
    """Give dropout to the adapters of linear layers; PEFT has none for those of experts, and would refuse both.

    It makes no difference after training, so that the adapter is saved as one without.
    """
    from peft.tuners.lora import Linear

    for module in adapted.modules():
        if isinstance(module, Linear):
            module.lora_dropout["default"] = torch.nn.Dropout(probability)
    console.note("lora_dropout leaves the adapters of experts out, where inputs cannot be dropped for each expert")


def _write_no_card(folder: str) -> None:
    """In place of PEFT's, which has no content but the path of the base, and takes longer than a small adapter."""


# The parts of a vision-language model by the beginning of their layers' names; the first that fits counts.
_PARTS = {
    "projector": ("model.visual.merger.", "model.visual.deepstack_merger_list."),
    "vision": ("model.visual.",),
    "language": ("model.language_model.",),
}


def part_of(layer: str) -> str | None:
    """Return the part of a vision-language model that a layer belongs to; None for its output projection."""
    return next((part for part, beginnings in _PARTS.items() if layer.startswith(beginnings)), None)


def _within_parts(bundle: ModelBundle, config: Config) -> str:
    """Return a pattern of the layers to adapt: of the language model as named, of other opted-in parts all."""
    opted_in = {"vision": config.train_vision, "projector": config.train_projector}
    targets = config.target_modules

    def is_chosen(name: str) -> bool:
        is_named = targets == ALL_LINEAR or _is_named(name, targets)  # type: ignore[arg-type]
        return opted_in.get(str(part_of(name)), False) or (part_of(name) == "language" and is_named)

    layers = [name for name, module in bundle.model.named_modules() if _is_linear(module)]
    return pattern_of([name for name in layers if is_chosen(name)], layers)


def adapted_parts(bundle: ModelBundle) -> str:
    """Say which layers of the bundle's model have an adapter: ``q_proj 30, v_proj 30``, by part where it has parts."""
    from peft.tuners.lora import LoraLayer

    counts: Counter[tuple[str, str]] = Counter()
    trained_in_experts = 0
    for name, module in bundle.model.get_base_model().named_modules():
        if isinstance(module, LoraLayer) and isinstance(module, torch.nn.Module):
            part = part_of(name) if bundle.family in VISION_FAMILIES else ""
            weight = getattr(module, "parameter_name", None)
            if weight is not None and weight != "weight":
                counts[str(part), f"experts.{weight}"] += 1
                factors = (*module.lora_A.values(), *module.lora_B.values())
                trained_in_experts += sum(factor.weight.numel() for factor in factors)
            else:
                counts[str(part), name.rpartition(".")[2]] += 1
    parts = dict.fromkeys(part for part, _ in counts)
    listed = {part: ", ".join(f"{layer} {n}" for (of, layer), n in counts.items() if of == part) for part in parts}
    said = "; ".join(f"{part}: {layers}" if part else layers for part, layers in listed.items())
    return said + (f" ({trained_in_experts:,} of the parameters in experts)" if trained_in_experts else "")


def _is_linear(module: torch.nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def _is_transposed(model: Any) -> bool:
    """GPT-2 keeps its weights as [in, out] in Conv1D layers; PEFT wants to be told."""
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(module, Conv1D) for module in model.modules())


def _check_targets(bundle: ModelBundle, targets: list[str]) -> None:
    layers = [name for name, _ in language_layers(bundle.model)]
    absent = [target for target in targets if not any(_is_named(name, [target]) for name in layers)]
    if absent:
        found = ", ".join(f"{name} ({count})" for name, count in linear_layers(bundle.model).items())
        raise SettingsError(
            f"target_modules: {bundle.source.name} has no layer named {', '.join(absent)}; its linear layers: {found}",
            "name some of these, or set target_modules: all-linear",
        )
