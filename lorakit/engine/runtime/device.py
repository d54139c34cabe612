"""Where to compute, and how much memory there is."""

from __future__ import annotations

import os

import torch

from lorakit.engine.runtime.machine_memory import machine_memory


def choose_device() -> torch.device:
    """Pick this process's CUDA GPU (the first, where there is one process), else Apple's, else the CPU."""
    if torch.cuda.is_available():
        # torchrun and accelerate launch number the processes of a host
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def free_bytes(device: torch.device) -> int:
    """Return the memory that can still be had: of the GPU, the machine, or a control group that has less."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    return machine_memory().free


def device_memory(device: torch.device) -> tuple[int, str]:
    """Return how much memory there is, free or not, and whose it is in words."""
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        return int(total), "the GPU's"
    machine = machine_memory()
    return machine.total, machine.whose
