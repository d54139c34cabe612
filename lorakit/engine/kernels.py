"""The passes between the matrix products in C++ (kernels.cpp), where this machine can compile it.

Every one of them has a twin of PyTorch operations in the file that calls it, for GPUs, other number formats, and
machines without a compiler. A run uses the one or the other from its first step to its last, resumed or not: they
round differently.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from lorakit.engine.kernel_build import NoKernelsError, built_kernels

_TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
# Their arguments: pointers, integers, floating-point numbers; in the order of the table in kernels.cpp.
_FUNCTIONS = {
    "rms_norm_forward": "ppppiif",
    "rms_norm_backward": "ppppppii",
    "rotary": "ppppiiiiiiif",
    "gated_forward": "pppi",
    "gated_backward": "pppppi",
    "attention_forward": "pppppppf",
    "attention_backward": "ppppppppppppfi",
    "cross_entropy": "pppiii",
}
_ALLOCATING = {"attention_forward", "attention_backward"}  # they return whether memory sufficed
_LOADED: dict[torch.dtype, Any] = {}  # of one format at most


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
    try:
        _LOADED[dtype] = _table(ctypes.CDLL(str(built_kernels(dtype))))
    except (NoKernelsError, OSError) as error:
        return KernelChoice(False, str(error))
    return KernelChoice(True, "compiled for this processor")


def has_kernels(dtype: torch.dtype) -> bool:
    """Whether the kernels compute what is in this format."""
    return dtype in _LOADED


def kernels_for(*tensors: torch.Tensor) -> Any:
    """Return the kernels for these tensors, each a function named as in kernels.cpp.

    They take tensors where those take pointers (None where those take none), and check nothing but memory, whose lack
    is an OutOfMemoryError.

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


def _table(library: ctypes.CDLL) -> SimpleNamespace:
    limit = library.most_key_elements
    limit.restype = ctypes.c_int64
    listing = library.kernels
    listing.restype = ctypes.POINTER(ctypes.c_void_p * len(_FUNCTIONS))
    addresses = listing().contents
    return SimpleNamespace(
        most_key_elements=limit(),
        **{
            function: _taking_tensors(_prototype(function)(address))
            for function, address in zip(_FUNCTIONS, addresses, strict=True)
        },
    )


def _prototype(function: str) -> Callable[[int], Callable[..., bool | None]]:
    result = ctypes.c_bool if function in _ALLOCATING else None
    return ctypes.CFUNCTYPE(result, *(_TYPES[kind] for kind in _FUNCTIONS[function]))


def _taking_tensors(kernel: Callable[..., bool | None]) -> Callable[..., None]:
    def call(*arguments: torch.Tensor | int | float | None) -> None:
        done = kernel(*(value.data_ptr() if isinstance(value, torch.Tensor) else value for value in arguments))
        if done is False:
            raise torch.OutOfMemoryError("no memory for attention's workspaces")

    return call
