"""A LoRA adapter alone as a GGUF file: what llama.cpp's ``--lora`` puts on a base model's own file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from gguf import GGUFWriter
from gguf.constants import MODEL_ARCH_NAMES, GGUFType, Keys

from lorakit.errors import AdapterError
from lorakit.export.gguf.family import family_of
from lorakit.export.gguf.file import GgufTensor, NumberFormat, write_gguf
from lorakit.export.gguf.tensors import HEAD, name_map

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_MERGE = "merge it instead (--task merge), or export the merged model as GGUF"
# Settings of PEFT that the two matrices of a plain LoRA do not hold; each is off where it is empty.
_MORE_THAN_LORA = {
    "use_dora": "DoRA",
    "lora_bias": "biases on its LoRA matrices",
    "modules_to_save": "whole modules beside LoRA (modules_to_save)",
    "trainable_token_indices": "trained tokens (trainable_token_indices)",
    "target_parameters": "LoRA on parameters (target_parameters)",
    "layer_replication": "replicated layers",
    "alora_invocation_tokens": "aLoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "Arrow routing",
}


@dataclass(frozen=True)
class LoraWeights:
    """What LoRA adds to a linear layer: ``scaling * B @ A``.

    Attributes:
        a: [rank, in].
        b: [out, rank].
        scaling: Alpha / rank, or what the adapter takes in its place.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float

    @property
    def rank(self) -> int:
        """The rank of what is added, at most."""
        return int(self.a.shape[0])

    def with_rank(self, rank: int, scaling: float) -> LoraWeights:
        """Return the same addition with another rank and scaling: padded with zeros, the rest of scaling in B."""
        more = rank - self.rank
        b = self.b.float() * (self.scaling / scaling) if self.scaling != scaling else self.b
        pad = torch.nn.functional.pad
        return LoraWeights(pad(self.a, (0, 0, 0, more)), pad(b, (0, more)), scaling)


def adapter_weights(peft_model: Any, adapter_name: str = "default") -> dict[str, LoraWeights]:
    """Read the LoRA matrices of a PEFT model.

    Args:
        peft_model: A ``peft.PeftModel`` with a LoRA adapter.
        adapter_name: Of the adapter.

    Returns:
        By the name of the linear layer in the base model, such as ``model.layers.0.self_attn.q_proj``.

    Raises:
        AdapterError: The adapter is more than LoRA on linear layers.
    """
    from peft.tuners.lora import LoraLayer

    _check_settings(peft_model.peft_config[adapter_name])
    weights = {}
    for name, module in peft_model.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if adapter_name in module.lora_embedding_A:  # type: ignore[attr-defined]
            raise _more_than_lora(f"LoRA on the embedding ({name})")
        if adapter_name in module.lora_A:  # type: ignore[attr-defined]
            a, b = (matrix[adapter_name].weight.detach() for matrix in (module.lora_A, module.lora_B))  # type: ignore[attr-defined]
            weights[name] = LoraWeights(a, b, float(module.scaling[adapter_name]))  # type: ignore[attr-defined]
    return weights


def write_adapter_gguf(file: Path, config: PretrainedConfig, weights: Mapping[str, LoraWeights], name: str) -> None:
    """Write an adapter for llama.cpp, in f32; the file is whole or not there.

    llama.cpp scales by one alpha over the rank. Where all layers have one rank and one scaling, the matrices are
    written as they are; else smaller ranks are padded with zeros, and differing scalings go into B.

    Args:
        file: To be written.
        config: Of the base model.
        weights: From the names of linear layers in the base model.
        name: Shown by those who read the file.

    Raises:
        ModelError: llama.cpp has no such base model.
        AdapterError: The adapter stands on a layer that llama.cpp does not adapt, or on none.
    """
    family = family_of(config)
    if not weights:
        raise AdapterError("the adapter has no LoRA matrices", "choose an adapter that has")
    rank = max(item.rank for item in weights.values())
    scalings = {item.scaling for item in weights.values()}
    scaling = (scalings.pop() if len(scalings) == 1 else 1.0) or 1.0  # llama.cpp takes an alpha of 0 for none
    names = name_map(family, config)
    tensors = []
    for layer, item in weights.items():
        target = f"{names.get_name(layer)}.weight"
        _check_target(layer, target, config)
        even = item.with_rank(rank, scaling)
        b = family.rows_as_computed(target, even.b, config)
        tensors += [_tensor(f"{target}.lora_a", even.a), _tensor(f"{target}.lora_b", b)]
    writer = GGUFWriter(None, MODEL_ARCH_NAMES[family.architecture])
    writer.add_type(GGUFType.ADAPTER)
    writer.add_name(name)
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, scaling * rank)
    write_gguf(file, writer, tensors)


def _tensor(name: str, matrix: torch.Tensor) -> GgufTensor:
    return GgufTensor(name, tuple(matrix.shape), NumberFormat.F32, matrix.cpu)


def _check_target(layer: str, target: str, config: PretrainedConfig) -> None:
    if target == "None.weight":
        raise AdapterError(f"{layer}: llama.cpp has no such layer to adapt", _MERGE)
    if target == HEAD and config.tie_word_embeddings:
        raise AdapterError(
            f"{layer}: is one with the embedding in this base model, so llama.cpp cannot adapt it alone", _MERGE
        )


def _check_settings(settings: Any) -> None:
    for setting, words in _MORE_THAN_LORA.items():
        if getattr(settings, setting, None):
            raise _more_than_lora(words)
    if settings.bias != "none":
        raise _more_than_lora(f"trained biases (bias: {settings.bias})")


def _more_than_lora(words: str) -> AdapterError:
    return AdapterError(f"the adapter has {words}, which a GGUF adapter cannot hold", _MERGE)
