"""The decoder layers compiled by `torch.compile`, where a run is long enough to win back the time it takes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from lorakit.engine.backends.cpu.compiler import find_compiler
from lorakit.engine.backends.cpu.levels import NoKernelsError

# Measured: compiling takes 15 to 40 s once, and saves a tenth of each step or more.
_WORTHWHILE_SECONDS = 600
_DOUBT = 10  # by which the same training may be estimated otherwise on a resume
# The one misses CUDA aloud where there is none; the other prints a traceback for whatever runs uncompiled.
_TALKATIVE = ("torch.utils.cpp_extension", "torch._dynamo")


def compiler_fault(device: torch.device) -> str | None:
    """Say why nothing can be compiled for a device here; None if it can."""
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "triton is not installed"
    if device.type != "cpu":
        return f"not for {device.type}"
    try:
        find_compiler()
    except NoKernelsError as error:
        return str(error)
    return None


def decide_compilation(
    setting: str | bool, estimated_seconds: float, device: torch.device, has_kernels: bool = False
) -> tuple[bool, str]:
    """Decide whether to compile.

    Args:
        setting: auto, true or false.
        estimated_seconds: Of the training that remains.
        device: Where it runs.
        has_kernels: Whether kernels.cpp computes, which compiled layers do without.

    Returns:
        The decision, and its reason.
    """
    if setting is False:
        return False, "as set in compile_layers"
    fault = compiler_fault(device)
    if fault is not None:
        return False, fault
    if setting is True:
        return True, "as set in compile_layers"
    minutes = estimated_seconds / 60
    if estimated_seconds < _WORTHWHILE_SECONDS:
        return False, f"about {minutes:.1f} minutes to train; it pays from {_WORTHWHILE_SECONDS // 60} on"
    if has_kernels:
        return False, "lorakit's own C++ gains more"
    return True, f"about {minutes:.0f} minutes to train"


def keep_compilation(was_compiled: bool, setting: str | bool, estimated_seconds: float) -> tuple[bool, str]:
    """Decide whether a resumed run compiles as the run before did, which its checkpoint says.

    Args:
        was_compiled: What the checkpoint says.
        setting: auto, true or false.
        estimated_seconds: Of the whole training.

    Returns:
        The decision, and its reason.
    """
    if was_compiled and setting is False:
        return False, "as set in compile_layers"
    if was_compiled and setting == "auto" and estimated_seconds < _WORTHWHILE_SECONDS / _DOUBT:
        return False, "the run that is resumed says so, but is far too short for it"
    return was_compiled, "as in the run that is resumed"


@contextmanager
def compiled_layers(model: Any) -> Iterator[None]:
    """Compile every decoder layer for as long as the context lasts; all layers of a kind share their code.

    What cannot be compiled runs as before.
    """
    names = set(getattr(model.get_base_model(), "_no_split_modules", None) or ())
    layers = [module for module in model.modules() if type(module).__name__ in names]
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    before, torch._dynamo.config.suppress_errors = torch._dynamo.config.suppress_errors, True
    for layer in layers:
        layer.compile(dynamic=True)
    try:
        yield
    finally:
        torch._dynamo.config.suppress_errors = before
        for layer in layers:
            layer._compiled_call_impl = None


def uncompiled() -> Any:
    """Return a context in which compiled layers run as before, for passes too few to compile for."""
    return torch.compiler.set_stance("force_eager")
