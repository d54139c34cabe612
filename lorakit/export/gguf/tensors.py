"""From the tensors of a checkpoint to those of llama.cpp: names, order of rows, number formats."""

from __future__ import annotations

import math
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from gguf import TensorNameMap, get_tensor_name_map
from gguf.constants import GGML_QUANT_SIZES

from lorakit.errors import ModelError
from lorakit.export.gguf.experts import experts_apart
from lorakit.export.gguf.file import GgufTensor, NumberFormat
from lorakit.export.gguf.layout import Family, head_dimension, rotations
from lorakit.export.weights.tensors import ModelTensors

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FORMATS = {
    "f32": NumberFormat.F32,
    "f16": NumberFormat.F16,
    "bf16": NumberFormat.BF16,
    "q8_0": NumberFormat.Q8_0,
}
HEAD = "output.weight"
_HEAD_OF_CHECKPOINT = "lm_head.weight"
EMBEDDING = "token_embd.weight"
_BUFFERS = re.compile(r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")  # older checkpoints hold them too
_ALWAYS_F32 = re.compile(r".*\.bias|position_embd\.weight|.*\.ffn_gate_inp\.weight")  # as llama.cpp's own converter
_SINKS = ".sinks"  # a parameter of attention, for which llama.cpp's name ends as a weight's


def name_map(family: Family, config: PretrainedConfig) -> TensorNameMap:
    """Return gguf's map from the names of checkpoints to llama.cpp's."""
    return get_tensor_name_map(family.architecture, config.num_hidden_layers)


def gguf_tensors(family: Family, config: PretrainedConfig, tensors: ModelTensors, dtype: str) -> list[GgufTensor]:
    """Plan all the tensors of a model's file.

    Args:
        family: Of the model.
        config: Of the model.
        tensors: Of the checkpoint.
        dtype: A key of `FORMATS`, for matrices; what has one dimension stays f32.

    Raises:
        ModelError: A tensor has no place in llama.cpp, or the output projection is missing.
    """
    planned = planned_tensors(family, config, tensors, dtype)
    _check_head(planned, config)
    return planned + _rotary_factors(config)


def planned_tensors(family: Family, config: PretrainedConfig, tensors: ModelTensors, dtype: str) -> list[GgufTensor]:
    """Plan the tensors that a file has of its checkpoint, with the arguments of `gguf_tensors`."""
    names, tensors = name_map(family, config), experts_apart(family, tensors)
    planned = []
    for source, shape in tensors.shapes.items():
        if _BUFFERS.search(source) or (source == _HEAD_OF_CHECKPOINT and config.tie_word_embeddings):
            continue
        name = _gguf_name(names, source)
        read = partial(_read, family, config, tensors, source, name)
        written = tuple(family.as_computed(name, torch.empty(shape, device="meta"), config).shape)
        planned.append(GgufTensor(name, written, _format(name, written, dtype), read))
    return planned


def _read(family: Family, config: PretrainedConfig, tensors: ModelTensors, source: str, name: str) -> torch.Tensor:
    return family.as_computed(name, tensors.read(source), config)


def _gguf_name(names: TensorNameMap, source: str) -> str:
    name = names.get_name(source, try_suffixes=(".weight", ".bias"))
    if name is None:
        raise ModelError(
            f"{source}: llama.cpp has no place for this tensor",
            "write a merged model instead (--task merge), or choose a base model without such changes",
        )
    return f"{name}.weight" if source.endswith(_SINKS) else name


def _format(name: str, shape: tuple[int, ...], dtype: str) -> NumberFormat:
    wanted = FORMATS[dtype]
    if len(shape) < 2 or _ALWAYS_F32.fullmatch(name):
        return NumberFormat.F32
    is_whole = shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0
    return wanted if is_whole else NumberFormat.F16


def _check_head(planned: list[GgufTensor], config: PretrainedConfig) -> None:
    """Without one llama.cpp would silently take the embedding in its place."""
    if not config.tie_word_embeddings and all(tensor.name != HEAD for tensor in planned):
        raise ModelError("lm_head.weight is missing, and is not tied to the embedding", "fetch the model again")


def _rotary_factors(config: PretrainedConfig) -> list[GgufTensor]:
    scaling = rotations(config)
    if scaling.get("rope_type") != "llama3":
        return []
    factors = llama3_factors(scaling, head_dimension(config))
    if not factors.isfinite().all():
        raise ModelError(f"rope_parameters: {scaling} slow a rotation by no finite number", "fetch the model again")
    return [GgufTensor("rope_freqs.weight", tuple(factors.shape), NumberFormat.F32, lambda: factors)]


def llama3_factors(scaling: dict[str, Any], numbers: int) -> torch.Tensor:
    """Return by how much each rotation is slowed: none for fast ones, all of ``factor`` for slow ones.

    Source: Llama 3.1's own scaling, as in transformers' ``modeling_rope_utils``.

    Args:
        scaling: ``rope_parameters`` of the type llama3.
        numbers: In one head.

    Returns:
        [numbers / 2].
    """
    exponents = torch.arange(0, numbers, 2, dtype=torch.float64) / numbers
    wavelengths = 2 * math.pi * float(scaling["rope_theta"]) ** exponents
    turns = scaling["original_max_position_embeddings"] / wavelengths
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - kept) / scaling["factor"] + kept)).float()
