"""The weights of experts, which llama.cpp keeps as one tensor each for gate, up and down: [experts, out, in]."""

from __future__ import annotations

import re
from collections import defaultdict
from functools import partial

import torch

from lorakit.export.gguf.layout import Family
from lorakit.export.weights.tensors import ModelTensors

_ONE_OF_MANY = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.weight")
_TOGETHER = re.compile(r"(.*\.mlp\.experts)\.(gate_up|down)_proj(_bias)?")


def experts_apart(family: Family, tensors: ModelTensors) -> ModelTensors:
    """Name and lay out experts as ``experts.gate_proj.weight`` and so on; every other tensor stays as it is.

    Args:
        family: Of the model.
        tensors: Of the checkpoint, which keeps an expert's matrices alone, or those of all experts together.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    parts = {}
    for name, shape in tensors.shapes.items():
        if _ONE_OF_MANY.fullmatch(name):
            continue
        found = _TOGETHER.fullmatch(name)
        if found is None:
            shapes[name] = shape
            continue
        for part in ("down",) if found[2] == "down" else ("gate", "up"):
            place = f"{found[1]}.{part}_proj.{'bias' if found[3] else 'weight'}"
            parts[place] = partial(_part, family, tensors, name, part, bool(found[3]))
            shapes[place] = tuple(_laid_out(family, torch.empty(shape, device="meta"), part, bool(found[3])).shape)
    for place, names in _alone(tensors).items():
        shapes[place] = (len(names), *tensors.shapes[names[0]])
        parts[place] = partial(_stacked, tensors, names)
    return ModelTensors(shapes, lambda name: parts[name]() if name in parts else tensors.read(name))


def _alone(tensors: ModelTensors) -> dict[str, list[str]]:
    """Return the matrices of experts that are kept alone, in the order of the experts, by their common name."""
    found: dict[str, dict[int, str]] = defaultdict(dict)
    for name in tensors.shapes:
        if match := _ONE_OF_MANY.fullmatch(name):
            found[f"{match[1]}.{match[3]}.weight"][int(match[2])] = name
    return {place: [names[expert] for expert in range(len(names))] for place, names in found.items()}


def _stacked(tensors: ModelTensors, names: list[str]) -> torch.Tensor:
    return torch.stack([tensors.read(name) for name in names])


def _part(family: Family, tensors: ModelTensors, name: str, part: str, is_bias: bool) -> torch.Tensor:
    return _laid_out(family, tensors.read(name), part, is_bias)


def _laid_out(family: Family, together: torch.Tensor, part: str, is_bias: bool) -> torch.Tensor:
    """Take gate, up or down out of what is kept together.

    Args:
        family: Of the model.
        together: [experts, 2 * out, in] or [experts, out, in], the last two the other way round where they are
            interleaved; biases [experts, 2 * out] or [experts, out].
        part: gate, up or down.
        is_bias: Whether it is one.

    Returns:
        [experts, out, in] or [experts, out].
    """
    if family.has_interleaved_experts and not is_bias:
        together = together.transpose(1, 2)
    if part == "down":
        return together
    if family.has_interleaved_experts:
        return together[:, 0 if part == "gate" else 1 :: 2]
    return together.chunk(2, dim=1)[0 if part == "gate" else 1]
