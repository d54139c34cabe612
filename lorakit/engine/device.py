"""Where to compute and in which number format, chosen by measurement and explained."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

# Half the memory is welcome, but a format emulated in software is many times slower.
_WORTHWHILE_SPEEDUP = 1.3
_HOPELESS_SPEEDUP = 0.2
_CGROUP = Path("/sys/fs/cgroup")  # where a container's limit stands


@dataclass(frozen=True)
class DtypeChoice:
    """A number format, why it was chosen, and what the user should be warned of."""

    dtype: torch.dtype
    reason: str
    warning: str | None = None

    @property
    def name(self) -> str:
        """Such as ``bfloat16``."""
        return str(self.dtype).removeprefix("torch.")


def choose_device() -> torch.device:
    """Pick this process's CUDA GPU (the first, where there is one process), else Apple's, else the CPU."""
    if torch.cuda.is_available():
        # torchrun and accelerate launch number the processes of a host
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(requested: str, device: torch.device) -> DtypeChoice:
    """Choose the number format of the base weights.

    Args:
        requested: auto, float32, float16 or bfloat16.
        device: Where the model will run.
    """
    if requested == "float16" and device.type == "cpu":
        choice = _auto(device)
        return DtypeChoice(
            choice.dtype,
            choice.reason,
            f"torch_dtype float16 is replaced with {choice.name}: a CPU computes float16 slowly and it overflows",
        )
    if requested == "auto":
        return _auto(device)
    return DtypeChoice(getattr(torch, requested), "as set in torch_dtype")


def _auto(device: torch.device) -> DtypeChoice:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return DtypeChoice(torch.bfloat16, "this GPU computes it in hardware")
        return DtypeChoice(torch.float16, "this GPU has no bfloat16; trained with loss scaling")
    if device.type == "mps":
        return DtypeChoice(torch.float32, "the safe choice on Apple GPUs")
    speedup = _bfloat16_speedup()
    if speedup >= _WORTHWHILE_SPEEDUP:
        return DtypeChoice(torch.bfloat16, f"cpu: measured {speedup:.1f}x float32 on this machine")
    return DtypeChoice(torch.float32, f"cpu: bfloat16 measured only {speedup:.1f}x float32 on this machine")


def _bfloat16_speedup() -> float:
    """Time a layer-sized matrix product in both formats; about a twentieth of a second.

    A few rows come first: without bf16 instructions the whole product would take seconds.
    """
    few = _matmul_seconds(torch.float32, rows=8) / _matmul_seconds(torch.bfloat16, rows=8)
    if few < _HOPELESS_SPEEDUP:
        return few
    return _matmul_seconds(torch.float32, rows=256) / _matmul_seconds(torch.bfloat16, rows=256)


def _matmul_seconds(dtype: torch.dtype, rows: int, repetitions: int = 5) -> float:
    left = torch.ones(rows, 1024, dtype=dtype)
    right = torch.ones(1024, 1024, dtype=dtype)
    durations = []
    for _ in range(repetitions):
        start = time.perf_counter()
        torch.mm(left, right)
        durations.append(time.perf_counter() - start)
    return min(durations)


def free_bytes(device: torch.device) -> int:
    """Return the memory that can still be had: of the GPU, the machine, or the container where that has less."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = ((_CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
