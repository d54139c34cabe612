"""The weights of a base with an adapter computed into them, one tensor at a time.

Only what the adapter touches is computed, in float32, and rounded once; every other tensor is the base's own, byte for
byte where its number format stays. Names and layout are those of the base's files, which is what other tools read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from lorakit.errors import AdapterError
from lorakit.export.tensors import ModelTensors

FORMATS = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


def merged_tensors(model: Any, base: ModelTensors, dtype: torch.dtype | None) -> ModelTensors:
    """Return the tensors of the base's files, those changed by what is in use replaced.

    Args:
        model: A ``peft.PeftModel`` over the base, with the adapters in use that are to be merged.
        base: The base's files.
        dtype: Of what floats; None leaves each tensor the format it has in the base's files.

    Raises:
        AdapterError: A changed layer has no place in the base's files.
    """
    changed: dict[str, Callable[[], torch.Tensor]] = {}
    shapes = dict(base.shapes)
    for name, compute in _changed_parameters(model):
        place = _place_of(name, base.shapes)
        if place is None and name.startswith("lm_head."):  # a head that was tied to the embeddings, and no longer is
            place = name
        if place is None:
            raise AdapterError(
                f"the adapter changes {name}, which the base's files do not have under such a name",
                "merging takes models whose files have the names that transformers gives them",
            )
        changed[place] = compute
        if place not in shapes:
            shapes[place] = tuple(compute().shape)

    def read(name: str) -> torch.Tensor:
        before = base.read(name) if name in base.shapes else None
        wanted = dtype or (before.dtype if before is not None else torch.float32)
        if name in changed:
            return changed[name]().to(wanted)
        assert before is not None
        return before.to(wanted) if before.is_floating_point() else before

    return ModelTensors(shapes, read)


def unties_head(model: Any) -> bool:
    """Tell whether merging changes an output layer that the base ties to its embeddings."""
    is_tied = getattr(model.get_base_model().config, "tie_word_embeddings", False)
    return is_tied and any(name.startswith("lm_head.") for name, _ in _changed_parameters(model))


def _changed_parameters(model: Any) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Yield name and computation of every parameter that what is in use changes."""
    from peft.tuners.lora import LoraLayer
    from peft.utils import ModulesToSaveWrapper

    base = model.get_base_model()
    for path, module in base.named_modules():
        if isinstance(module, LoraLayer):
            if any(name in module.lora_A or name in module.lora_embedding_A for name in module.active_adapters):
                for parameter in dict(module.get_base_layer().named_parameters(recurse=False)):
                    yield f"{path}.{parameter}", partial(_merged, module, parameter)
        elif isinstance(module, ModulesToSaveWrapper):
            for name in module.active_adapters:
                for parameter, value in module.modules_to_save[name].named_parameters():
                    yield f"{path}.{parameter}", value.detach


def _merged(layer: Any, parameter: str) -> torch.Tensor:
    """Let PEFT merge a copy of a layer in float32, which covers DoRA, biases and transposed weights alike."""
    own = copy.deepcopy(layer).float()
    own.merge(safe_merge=False, adapter_names=list(own.active_adapters))
    value: torch.Tensor = own.get_base_layer().get_parameter(parameter)
    return value.detach()


def _place_of(name: str, names: dict[str, Any]) -> str | None:
    """Find a parameter in the base's files, which may leave out or add what stands before the layers."""
    if name in names:
        return name
    parts = name.split(".")
    for start in range(1, len(parts) - 1):  # h.0.attn.c_attn.weight for transformer.h.0.attn.c_attn.weight
        if (shorter := ".".join(parts[start:])) in names:
            return shorter
        found = [other for other in names if other.endswith("." + shorter)]
        if found:
            return found[0] if len(found) == 1 else None
    return None
