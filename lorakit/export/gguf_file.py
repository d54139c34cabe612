"""A GGUF file, written tensor by tensor, so that only one of them is in the memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import quantize

from lorakit.errors import ModelError

NumberFormat = GGMLQuantizationType


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
        ModelError: A number is too large for the format.
    """
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
