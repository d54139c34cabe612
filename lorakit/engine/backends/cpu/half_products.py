"""Products of float32 with weights in float16, where the processor multiplies those fast (half_products.cpp).

Some processors multiply float16 numbers twice as fast as float32 ones (AVX512-FP16) and have nothing faster. PyTorch's
products on a CPU do not use that; these do, with sums in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from lorakit.engine.backends.cpu.build import HALF_PRODUCTS
from lorakit.engine.backends.cpu.levels import NoKernelsError, wished_level
from lorakit.engine.backends.cpu.library import load

Kernel = Callable[..., None]


def half_fault() -> str | None:
    """Say why half_products.cpp cannot be used here; None if it can. It is compiled now if it is not in the cache."""
    found = _kernel_or_fault()
    return str(found) if isinstance(found, NoKernelsError) else None


@cache
def _kernel_or_fault() -> Kernel | NoKernelsError:
    try:
        if not HALF_PRODUCTS.needs <= wished_level().needs:
            return NoKernelsError("the processor cannot multiply float16")
        return half_kernel()
    except NoKernelsError as fault:
        return fault


def half_kernel() -> Kernel:
    """Return the kernel of half_products.cpp, fast or not.

    Raises:
        NoKernelsError: There is none.
    """
    return load(HALF_PRODUCTS).half_product  # type: ignore[no-any-return]


def multiply_half(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, adds: bool) -> bool:
    """Write or add the product of float32 [rows, depth] and float16 [depth, columns] to a float32 tensor.

    Returns:
        Whether it did; else it has left everything as it was.

    Raises:
        torch.OutOfMemoryError: There is no memory for a block of the weights.
    """
    is_served = (
        not torch.compiler.is_compiling()
        and left.device.type == "cpu"
        and (left.dtype, right.dtype, out.dtype) == (torch.float32, torch.float16, torch.float32)
        and 1 in right.stride()
        and out.stride(1) == 1
    )
    kernel = _kernel_or_fault() if is_served else None
    if kernel is None or isinstance(kernel, NoKernelsError):
        return False
    if left.stride(1) != 1:
        left = left.contiguous()
    strides = left.stride(0), *right.stride(), out.stride(0)
    kernel(left, right, out, *left.shape, right.shape[1], *strides, adds)
    return True
