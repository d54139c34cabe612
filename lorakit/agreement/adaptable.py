"""Which parts of a model an adapter may change: the linear layers of its language model, and the weights of experts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from lorakit.engine import pieces_of

# Layers whose weight the model's code takes without calling them, by types of models; PEFT refuses to adapt them.
_WITHOUT_LAYER = frozenset({"out_proj", "conv1d"})
_MAMBA = frozenset({"falcon_h1", "mamba", "mamba2", "falcon_mamba", "nemotron_h"})
_NAMES_OF_EXPERTS = frozenset({"gate", "w1", "w2", "w3", "gate_proj", "up_proj", "down_proj"})
_GATES = frozenset({"gate", "router", "shared_expert_gate", "shared_experts_gate"})


def decoder_of(model: Any) -> Any:
    """Return the part of a model that its layers and its embedding of tokens belong to."""
    found = model.get_decoder() if hasattr(model, "get_decoder") else None
    embedding = model.get_input_embeddings()  # some call their output projection a decoder
    is_found = isinstance(found, torch.nn.Module) and any(module is embedding for module in found.modules())
    return found if is_found else model


def language_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the linear layers of the language model by name, the output projection left out."""
    from transformers.pytorch_utils import Conv1D

    inside = {id(module) for module in _language_parts(model)}
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | Conv1D) and id(module) in inside and module is not head:
            yield name, module


def _language_parts(model: Any) -> Iterator[torch.nn.Module]:
    """Yield the modules of the language model: all, unless it is one part of several."""
    decoder = decoder_of(model)
    yield from (decoder if has_other_parts(model) else model).modules()


def has_other_parts(model: Any) -> bool:
    """Whether there are towers for pictures or sounds beside the language model."""
    return any(getattr(model.config, name, None) is not None for name in ("vision_config", "audio_config"))


def adaptable_layers(model: Any) -> list[str]:
    """List the linear layers of the language model that ``all-linear`` means.

    Routers are not among them: to learn which expert is asked is another thing than to learn what it says.
    """
    left_out = set(pieces_of(model).unheard)
    if model.config.get_text_config().model_type in _MAMBA:
        left_out |= _WITHOUT_LAYER
    return [
        name
        for name, module in language_layers(model)
        if not is_router(name, module) and name.rpartition(".")[2] not in left_out
    ]


def adaptable_targets(model: Any) -> tuple[list[str], list[str]]:
    """Return what ``all-linear`` means as PEFT takes it: names of layers, and of parameters.

    Beside fused experts PEFT takes a layer called ``up_proj`` for one of an expert of old, and would leave a shared
    expert out: the weights of such layers are named as parameters.
    """
    layers, weights = adaptable_layers(model), expert_weights(model)
    if not weights:
        return layers, []
    mistaken = [name for name in layers if name.rpartition(".")[2] in _NAMES_OF_EXPERTS]
    return [name for name in layers if name not in mistaken], weights + [f"{name}.weight" for name in mistaken]


def is_router(name: str, module: Any) -> bool:
    """Whether a layer chooses among experts."""
    *above, last = name.lower().split(".")
    return last in _GATES or "router" in type(module).__name__.lower() or any("router" in part for part in above)


def expert_weights(model: Any) -> list[str]:
    """List the weights of experts that are held together, [experts, ...] each, by the names of the parameters."""
    inside = {id(module) for module in _language_parts(model)}
    return [
        f"{path}.{name}"
        for path, module in model.named_modules()
        if id(module) in inside and _is_experts(path, module)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dim() == 3 and parameter.is_floating_point() and "bias" not in name
    ]


def _is_experts(path: str, module: torch.nn.Module) -> bool:
    return "expert" in path.lower() or "expert" in type(module).__name__.lower()
