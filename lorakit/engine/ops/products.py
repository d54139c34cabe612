"""Matrix products with frozen weights, which may be held in float16 where all else is float32.

Some processors multiply float16 numbers twice as fast as float32 ones (AVX512-FP16) and have nothing faster. PyTorch's
products on a CPU do not use that; half_products.cpp does, with sums in float32. Where it is not compiled, or not for
what it is given, the weight is widened for the moment: the same product, more exact and slower.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from lorakit.engine.backends.cpu.build import HALF_PRODUCTS
from lorakit.engine.backends.cpu.levels import NoKernelsError, wished_level
from lorakit.engine.backends.cpu.library import load

Kernel = Callable[..., None]


def product(
    left: torch.Tensor, right: torch.Tensor, bias: torch.Tensor | None = None, place: torch.Tensor | None = None
) -> torch.Tensor:
    """Return left [rows, depth] times right [depth, columns], plus bias [columns], written to a place if there is one.

    Raises:
        torch.OutOfMemoryError: There is no memory for a block of the weights.
    """
    if left.dtype is not right.dtype:
        if place is None:
            place = left.new_empty(len(left), right.shape[1])
        if bias is not None:
            place.copy_(bias)  # [rows, columns]
        return _mixed(left, right, place, adds=bias is not None)
    return torch.mm(left, right, out=place) if bias is None else torch.addmm(bias, left, right, out=place)


def plus_product(total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Add left times right to a total [rows, columns], in place, and return it; without a total the product itself."""
    if total is None:
        return product(left, right)
    return total.addmm_(left, right) if left.dtype is right.dtype else _mixed(left, right, total, adds=True)


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


def _mixed(left: torch.Tensor, right: torch.Tensor, place: torch.Tensor, adds: bool) -> torch.Tensor:
    """Write or add the product of float32 and float16 to a place [rows, columns] in float32."""
    is_served = (
        not torch.compiler.is_compiling()
        and left.device.type == "cpu"
        and (left.dtype, right.dtype, place.dtype) == (torch.float32, torch.float16, torch.float32)
        and 1 in right.stride()
        and place.stride(1) == 1
    )
    kernel = _kernel_or_fault() if is_served else None
    if kernel is None or isinstance(kernel, NoKernelsError):
        wide = right.to(left.dtype)
        return place.addmm_(left, wide) if adds else torch.mm(left, wide, out=place)
    if left.stride(1) != 1:
        left = left.contiguous()
    strides = left.stride(0), *right.stride(), place.stride(0)
    kernel(left, right, place, *left.shape, right.shape[1], *strides, adds)
    return place
