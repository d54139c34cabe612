"""A whole model as one GGUF file, for llama.cpp and what is built on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_VERSION, MODEL_ARCH_NAMES, GGUFType, LlamaFileType, RopeScalingType

from lorakit.data_processing import ChatFormat
from lorakit.export.gguf.family import family_of
from lorakit.export.gguf.file import does_not_fit, write_gguf
from lorakit.export.gguf.layout import Family, rotations
from lorakit.export.gguf.tensors import EMBEDDING, gguf_tensors
from lorakit.export.gguf.tokenizer import add_tokenizer
from lorakit.export.weights.tensors import ModelTensors

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_FILE_TYPES = {
    "f32": LlamaFileType.ALL_F32,
    "f16": LlamaFileType.MOSTLY_F16,
    "bf16": LlamaFileType.MOSTLY_BF16,
    "q8_0": LlamaFileType.MOSTLY_Q8_0,
}


def write_model_gguf(  # noqa: PLR0913, PLR0917 - a file of everything that a model is
    file: Path,
    config: PretrainedConfig,
    tensors: ModelTensors,
    tokenizer: PreTrainedTokenizerBase,
    chat_format: ChatFormat,
    stop_ids: list[int],
    dtype: str,
    name: str,
) -> None:
    """Write a model with its tokenizer and chat template; the file is whole or not there.

    Args:
        file: To be written.
        config: Of the model.
        tensors: Of the model, read one at a time.
        tokenizer: Of the model: that of ``chat_format``.
        chat_format: Of the model.
        stop_ids: The tokens at which an answer ends, the trained end of turn among them.
        dtype: f32, f16, bf16 or q8_0, for the matrices; norms and biases stay f32.
        name: Shown by those who read the file.

    Raises:
        ModelError: llama.cpp has no such model or tokenizer, or ``dtype`` cannot hold a number.
    """
    assert tokenizer is chat_format.tokenizer
    family = family_of(config)
    planned = gguf_tensors(family, config, tensors, dtype)
    rows = next(tensor.shape[0] for tensor in planned if tensor.name == EMBEDDING)
    writer = GGUFWriter(None, MODEL_ARCH_NAMES[family.architecture])
    writer.add_type(GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(_FILE_TYPES[dtype])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_vocab_size(rows)
    _add_settings(writer, family, config)
    add_tokenizer(writer, config, chat_format, stop_ids, rows)
    write_gguf(file, writer, planned)


def _add_settings(writer: GGUFWriter, family: Family, config: PretrainedConfig) -> None:
    for method, setting in family.settings.items():
        value = setting(config)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise does_not_fit(method.removeprefix("add_"), value)
        try:
            getattr(writer, method)(value)
        except TypeError:  # a number of heads that is no whole one is taken for a list of one for each layer
            raise does_not_fit(method.removeprefix("add_"), value) from None
    scaling = rotations(config)
    kind = scaling.get("rope_type")
    if kind in {"linear", "yarn"}:  # llama3 is a tensor
        writer.add_rope_scaling_type(RopeScalingType(kind))
        writer.add_rope_scaling_factor(scaling["factor"])
    if kind == "yarn":
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
