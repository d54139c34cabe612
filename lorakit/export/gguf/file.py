"""A GGUF file, written tensor by tensor, so that only one of them is in the memory."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType
from gguf.quants import quantize

from lorakit.errors import ModelError

NumberFormat = GGMLQuantizationType
_FORMATS = {  # of struct; a float beyond float32 is an error in the formats with an order of bytes alone
    GGUFValueType.UINT32: "<I",
    GGUFValueType.INT32: "<i",
    GGUFValueType.UINT64: "<Q",
    GGUFValueType.INT64: "<q",
    GGUFValueType.FLOAT32: "<f",
}


@dataclass(frozen=True)
class GgufTensor:
    """A tensor to be written.

    Attributes:
        name: llama.cpp's.
        shape: As numpy counts it, the longest stride first.
        format: Of its numbers in the file.
        read: Gives the tensor, in any floating format.
    """

    name: str
    shape: tuple[int, ...]
    format: NumberFormat
    read: Callable[[], torch.Tensor]

    @property
    def bytes(self) -> int:
        """Its size in the file."""
        block_numbers, block_bytes = GGML_QUANT_SIZES[self.format]
        return prod(self.shape) // block_numbers * block_bytes


def write_gguf(file: Path, writer: GGUFWriter, tensors: Sequence[GgufTensor]) -> None:
    """Write a file that is whole or not there.

    Args:
        file: To be written; an older one goes only when the new one is whole.
        writer: With all the metadata, and no file yet.
        tensors: In the order in which they are to stand in the file.

    Raises:
        ModelError: A number is too large for the format, or a setting for the metadata.
    """
    _check_metadata(writer)
    temporary = file.with_name(f"{file.name}.writing")
    for tensor in tensors:
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.bytes, raw_dtype=tensor.format)
    try:
        writer.write_header_to_file(temporary)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(_encoded(tensor))
        writer.close()
        os.replace(temporary, file)
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)


def _check_metadata(writer: GGUFWriter) -> None:
    """Hold what config.json and tokenizer give to what the file can hold: the writer would break in between."""
    for key, field in writer.kv_data[0].items():
        is_array = field.type == GGUFValueType.ARRAY
        kind = (field.sub_type or GGUFValueType.get_type(field.value[0])) if is_array else field.type
        if not all(_fits(value, kind) for value in (field.value if is_array else [field.value])):
            raise does_not_fit(key, field.value)


def does_not_fit(name: str, value: object) -> ModelError:
    """Return the error of a setting that no field of a GGUF file can hold."""
    return ModelError(
        f"{name}: does not fit in a GGUF file (found: {repr(value)[:60]})",
        "fetch the model again; a merged model (--task merge) holds whatever config.json says",
    )


def _fits(value: Any, kind: GGUFValueType) -> bool:
    try:
        if kind == GGUFValueType.STRING and isinstance(value, str):
            value.encode()
        if kind in _FORMATS:
            struct.pack(_FORMATS[kind], value)
            return math.isfinite(value)
    except (struct.error, OverflowError, TypeError, UnicodeEncodeError):
        return False
    return True


def _encoded(tensor: GgufTensor) -> np.ndarray[Any, Any]:
    with np.errstate(over="ignore"):  # found below
        numbers: np.ndarray[Any, Any] = quantize(
            tensor.read().detach().cpu().float().contiguous().numpy(), tensor.format
        )
    if tensor.format == NumberFormat.F16 and not np.isfinite(numbers).all():
        raise ModelError(
            f"{tensor.name}: has numbers that 16 bits of f16 cannot hold", "set export_dtype to bf16 or f32"
        )
    return numbers
