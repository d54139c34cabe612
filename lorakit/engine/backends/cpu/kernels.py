"""The passes between the matrix products in C++ (kernels.cpp), where this machine can compile it.

Every one of them has a twin of PyTorch operations in the file that calls it, for GPUs, other number formats, and
machines without a compiler. A run uses the one or the other from its first step to its last, resumed or not: they
round differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch

from lorakit.engine.backends.cpu.build import BFLOAT16_BLOCKS, BFLOAT16_KERNELS, FLOAT32_BLOCKS, FLOAT32_KERNELS
from lorakit.engine.backends.cpu.levels import NoKernelsError
from lorakit.engine.backends.cpu.library import load
from lorakit.engine.runtime import processor

_SOURCES = {
    torch.float32: (FLOAT32_KERNELS, FLOAT32_BLOCKS),
    torch.bfloat16: (BFLOAT16_KERNELS, BFLOAT16_BLOCKS),
}
_LOADED: dict[torch.dtype, Any] = {}  # of one format at most
# Up to so many elements of a head's keys attention in bfloat16 is faster here than by PyTorch's products, where those
# have AMX tiles.
_MOST_KEY_ELEMENTS = 40_000


@dataclass(frozen=True)
class KernelChoice:
    """Whether the kernels compute, and why or why not."""

    is_used: bool
    reason: str

    def __str__(self) -> str:
        return f"{'C++' if self.is_used else 'PyTorch'} ({self.reason})"


def choose_kernels(
    is_wanted: bool, device: torch.device, dtype: torch.dtype, reason: str = "as set in cpu_kernels"
) -> KernelChoice:
    """Compute with kernels.cpp from now on, or with PyTorch alone.

    Args:
        is_wanted: Otherwise they are left out, for the reason.
        device: Where the model computes.
        dtype: In which format.
        reason: Why they are wanted or not.
    """
    _LOADED.clear()
    if device.type != "cpu":
        return KernelChoice(False, f"not for {device.type}")
    if not is_wanted:
        return KernelChoice(False, reason)
    if dtype not in _SOURCES:
        return KernelChoice(False, f"not for {dtype}".replace("torch.", ""))
    try:
        passes, blocks = (vars(load(source)) for source in _SOURCES[dtype])
        _LOADED[dtype] = SimpleNamespace(**blocks | passes)
    except NoKernelsError as error:
        return KernelChoice(False, str(error))
    return KernelChoice(True, _LOADED[dtype].how)


def has_kernels(dtype: torch.dtype) -> bool:
    """Whether the kernels compute what is in this format."""
    return dtype in _LOADED


def kernels_for(*tensors: torch.Tensor) -> Any:
    """Return the kernels for these tensors, each a function named as in kernels.cpp.

    They take tensors where those take pointers; see `load`.

    Args:
        tensors: All that a kernel reads as one block. Others may have strides.

    Returns:
        None where PyTorch has to do: elsewhere than on the CPU, for other formats, and while a layer is compiled.
    """
    first = tensors[0]
    kernels = _LOADED.get(first.dtype)
    if kernels is None or torch.compiler.is_compiling():
        return None
    is_served = all(
        tensor.device.type == "cpu" and tensor.dtype is first.dtype and tensor.is_contiguous() for tensor in tensors
    )
    return kernels if is_served else None


def block_kernels_for(*tensors: torch.Tensor) -> Any:
    """Return the kernels as `kernels_for` does, where they have blocks.cpp and that is the fastest way.

    bfloat16 is multiplied in pairs there. Where processors have no instruction for pairs, or AMX tiles, which PyTorch
    uses, products stay with PyTorch.
    """
    kernels = kernels_for(*tensors)
    is_served = hasattr(kernels, "mlp_forward") and not (
        tensors[0].dtype is torch.bfloat16 and "amx_bf16" in _features()
    )
    return kernels if is_served else None


def serves_attention(key_elements: int, dtype: torch.dtype) -> bool:
    """Whether attention is faster by the kernels than by PyTorch's products, for so many elements of a head's keys."""
    return dtype is torch.float32 or key_elements <= _MOST_KEY_ELEMENTS or "amx_bf16" not in _features()


@cache
def _features() -> frozenset[str]:
    return processor.features()
