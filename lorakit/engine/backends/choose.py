"""Which backend computes for a model, and why."""

from __future__ import annotations

import torch

from lorakit.engine.backends.base import Backend
from lorakit.engine.backends.cpu.backend import FORMATS, CpuBackend
from lorakit.engine.backends.cpu.levels import NoKernelsError
from lorakit.engine.backends.torch.backend import TorchBackend


def choose_backend(
    is_wanted: bool, device: torch.device, dtype: torch.dtype, reason: str = "as set in cpu_kernels"
) -> Backend:
    """Choose own C++ where it can compute for a model, else PyTorch.

    Args:
        is_wanted: Otherwise C++ is left out, for the reason.
        device: Where the model computes.
        dtype: In which format.
        reason: Why it is wanted or not.
    """
    if device.type != "cpu":
        return TorchBackend(f"not for {device.type}", device.type)
    if not is_wanted:
        return TorchBackend(reason)
    if dtype not in FORMATS:
        return TorchBackend(f"not for {dtype}".replace("torch.", ""))
    try:
        return CpuBackend(dtype)
    except NoKernelsError as error:
        return TorchBackend(str(error))
