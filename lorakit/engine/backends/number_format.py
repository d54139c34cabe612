"""In which number format a model computes, chosen by measurement and explained."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch

from lorakit.engine.backends.cpu.half_products import half_fault, multiply_half

FORMATS = ("float32", "float16", "bfloat16")
# Half the memory is welcome, but a format emulated in software is many times slower.
_WORTHWHILE_SPEEDUP = 1.3
_HOPELESS_SPEEDUP = 0.2


@dataclass(frozen=True)
class DtypeChoice:
    """A number format, why it was chosen, and what the user should be warned of.

    Attributes:
        dtype: In which the model computes.
        reason: Why.
        warning: What is not as the user has set it.
        is_half: Whether its large matrices are float16 while all else is ``dtype``, float32.
    """

    dtype: torch.dtype
    reason: str
    warning: str | None = None
    is_half: bool = False

    @property
    def weights(self) -> torch.dtype:
        """The format of the large matrices."""
        return torch.float16 if self.is_half else self.dtype

    @property
    def name(self) -> str:
        """Such as ``bfloat16``."""
        return str(self.weights).removeprefix("torch.")


def choose_dtype(requested: str, device: torch.device, may_be_half: bool = True) -> DtypeChoice:
    """Choose the number format of the base weights.

    On a CPU float16 means the products with frozen weights alone (see `half_products`).

    Args:
        requested: auto, float32, float16 or bfloat16.
        device: Where the model will run.
        may_be_half: Whether a CPU may use float16: where the model's code is known and its weights are whole.
    """
    if requested == "float16" and device.type == "cpu":
        fault = half_fault() if may_be_half else "not for this model and these settings"
        if fault is None:
            return DtypeChoice(torch.float32, "as set in torch_dtype; sums in float32", is_half=True)
        choice = _auto(device, may_be_half=False)
        return replace(choice, warning=f"torch_dtype float16 is replaced with {choice.name}: {fault}")
    if requested == "auto":
        return _auto(device, may_be_half)
    return DtypeChoice(getattr(torch, requested), "as set in torch_dtype")


def _auto(device: torch.device, may_be_half: bool) -> DtypeChoice:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return DtypeChoice(torch.bfloat16, "this GPU computes it in hardware")
        return DtypeChoice(torch.float16, "this GPU has no bfloat16; trained with loss scaling")
    if device.type == "mps":
        return DtypeChoice(torch.float32, "the safe choice on Apple GPUs")
    speedup = _bfloat16_speedup()
    if speedup >= _WORTHWHILE_SPEEDUP:
        return DtypeChoice(torch.bfloat16, f"cpu: measured {speedup:.1f}x float32 on this machine")
    if may_be_half and half_fault() is None:
        of_half = _half_speedup()
        if of_half >= _WORTHWHILE_SPEEDUP:
            reason = f"cpu: products measured {of_half:.1f}x float32 on this machine; sums in float32"
            return DtypeChoice(torch.float32, reason, is_half=True)
    return DtypeChoice(torch.float32, f"cpu: {_slowness(speedup)}")


def _slowness(speedup: float) -> str:
    if speedup < _HOPELESS_SPEEDUP:
        return f"bfloat16 has no instructions here, and takes {1 / speedup:.0f} times as long as float32"
    return f"bfloat16 measured only {speedup:.1f}x float32 on this machine"


def _bfloat16_speedup() -> float:
    """Time a layer-sized matrix product in both formats; about a twentieth of a second.

    A few rows come first: without bf16 instructions the whole product would take seconds.
    """
    few = _matmul_seconds(torch.float32, rows=8) / _matmul_seconds(torch.bfloat16, rows=8)
    if few < _HOPELESS_SPEEDUP:
        return few
    return _matmul_seconds(torch.float32, rows=256) / _matmul_seconds(torch.bfloat16, rows=256)


def _half_speedup() -> float:
    """Time a larger product with a weight in float16."""
    return _matmul_seconds(torch.float32, rows=1024) / _matmul_seconds(torch.float32, rows=1024, weights=torch.float16)


def _matmul_seconds(dtype: torch.dtype, rows: int, repetitions: int = 5, weights: torch.dtype | None = None) -> float:
    left = torch.ones(rows, 1024, dtype=dtype)
    right = torch.ones(1024, 1024, dtype=weights or dtype)
    place = left.new_empty(rows, 1024)
    durations = []
    for _ in range(repetitions):
        start = time.perf_counter()
        if weights is None or not multiply_half(left, right, place, adds=False):
            torch.mm(left, right.to(dtype), out=place)
        durations.append(time.perf_counter() - start)
    return min(durations)
