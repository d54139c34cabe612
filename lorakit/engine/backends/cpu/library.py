"""Libraries of kernels, loaded: their functions take tensors, and their threads are PyTorch's."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from lorakit.engine.backends.cpu.build import KernelSource, built_in, compiled
from lorakit.engine.backends.cpu.levels import NoKernelsError

# For tests: set to 1, kernels compute with one thread, as where PyTorch has other threads than OpenMP's.
_SINGLE_VARIABLE = "LORAKIT_KERNELS_SINGLE"
_TYPES: dict[str, Any] = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float, "b": ctypes.c_bool, "v": None}
_THREAD_FUNCTIONS = (
    "GOMP_parallel",
    "GOMP_barrier",
    "omp_get_thread_num",
    "omp_get_num_threads",
    "omp_get_max_threads",
)


class _Function(ctypes.Structure):
    """As in function_table.h."""

    _fields_ = (("name", ctypes.c_char_p), ("kinds", ctypes.c_char_p), ("address", ctypes.c_void_p))


def load(source: KernelSource) -> SimpleNamespace:
    """Return the functions of a library, which the package has brought or is compiled now, by their names.

    Beside them ``how`` says where it comes from.

    They take tensors where they take pointers (None where those may be none), and check nothing but memory: where one
    that returns whether it sufficed says no, that is an OutOfMemoryError.

    Raises:
        NoKernelsError: There is no library for this machine, or it cannot be loaded.
    """
    file = built_in(source)
    try:
        library = ctypes.CDLL(str(file or compiled(source)))
    except OSError as error:
        raise NoKernelsError(str(error)) from error
    threads = _threads()
    library.use_threads((ctypes.c_void_p * len(_THREAD_FUNCTIONS))(*threads))
    library.functions.restype = ctypes.POINTER(_Function)
    how = f"built in: {file.name}" if file else "compiled for this processor"
    functions: dict[str, Any] = {"how": how if threads[0] else f"{how}; one thread"}
    for function in library.functions():
        if not function.name:
            break
        functions[function.name.decode()] = _taking_tensors(function)
    return SimpleNamespace(**functions)


@cache
def _threads() -> tuple[int | None, ...]:
    """Return the addresses of the functions in threads.h, of the very OpenMP that PyTorch computes with, or of none."""
    none = (None,) * len(_THREAD_FUNCTIONS)
    if os.environ.get(_SINGLE_VARIABLE) == "1":
        return none
    torch.get_num_threads()  # loads it
    for suffix in ("so", "dylib"):
        file = Path(torch.__file__).parent / "lib" / f"libtorch_cpu.{suffix}"
        if file.is_file():
            its = ctypes.CDLL(str(file))  # and all that it is linked with
            try:
                return tuple(ctypes.cast(getattr(its, name), ctypes.c_void_p).value for name in _THREAD_FUNCTIONS)
            except AttributeError:
                return none
    return none


def _taking_tensors(function: Any) -> Callable[..., None]:
    result, *kinds = function.kinds.decode()
    kernel = ctypes.CFUNCTYPE(_TYPES[result], *(_TYPES[kind] for kind in kinds))(function.address)
    name = function.name.decode()

    def call(*arguments: torch.Tensor | int | float | None) -> None:
        done = kernel(*(value.data_ptr() if isinstance(value, torch.Tensor) else value for value in arguments))
        if done is False:
            raise torch.OutOfMemoryError(f"no memory for the workspaces of {name}")

    call.kinds = function.kinds.decode()  # type: ignore[attr-defined]
    return call
