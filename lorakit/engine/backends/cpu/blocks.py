"""What the halves of a decoder layer consist of, each by one call of blocks.cpp; `Backend` says what they promise."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch

from lorakit.engine.backends.operands import (
    PER_PROJECTION,
    Gradients,
    LoraFactors,
    MlpSaved,
    Norm,
    NormedInput,
    Projection,
    Smalls,
)

_Pointer, _Integer = ctypes.c_void_p, ctypes.c_int64


class _Linear(ctypes.Structure):
    """As in blocks.cpp."""

    _fields_ = (
        ("weight", _Pointer),
        ("by_out", _Integer),
        ("by_in", _Integer),
        ("bias", _Pointer),
        ("a", _Pointer),
        ("b", _Pointer),
        ("out", _Integer),
        ("in", _Integer),
        ("rank", _Integer),
        ("scaling", ctypes.c_float),
    )


class _Norm(ctypes.Structure):
    _fields_ = (("weight", _Pointer), ("width", _Integer), ("epsilon", ctypes.c_float))


class _Gradient(ctypes.Structure):
    _fields_ = (
        ("small", _Pointer),
        ("wide", _Pointer),
        ("to", _Pointer),
        ("rank", _Integer),
        ("columns", _Integer),
        ("by_rank", _Integer),
        ("by_column", _Integer),
        ("scale", ctypes.c_float),
    )


def is_plain(one: Projection, dtype: torch.dtype) -> bool:
    """Whether blocks.cpp reads this projection."""
    sizes = [*one.weight.shape, one.lora.a.shape[0] if one.lora else 0]
    return (
        one.weight.dtype is dtype
        and 1 in one.weight.stride()
        and (one.bias is None or (one.bias.dtype is dtype and one.bias.is_contiguous()))
        and (one.lora is None or _has_plain_factors(one.lora))
        and (dtype is torch.float32 or all(size % 2 == 0 for size in sizes))
    )


def _has_plain_factors(lora: LoraFactors) -> bool:
    return lora.keep_mask is None and all(
        factor.dtype is torch.float32 and factor.is_contiguous() for factor in (lora.a, lora.b)
    )


def norm_linears(
    kernels: Any, x: torch.Tensor, norm: Norm, projections: Sequence[Projection], outs: Sequence[torch.Tensor | None]
) -> tuple[list[torch.Tensor], Smalls, torch.Tensor]:
    """See `Backend.norm_linears`."""
    outputs = [
        x.new_empty(len(x), len(one.weight)) if out is None else out for one, out in zip(projections, outs, strict=True)
    ]
    smalls, rstd = _smalls(x, projections), x.new_empty((len(x), 1), dtype=torch.float32)
    _project(kernels, x, norm, rstd, projections, outputs, smalls, None)
    return outputs, smalls, rstd


def add_linear(
    kernels: Any, x: torch.Tensor, projection: Projection, residual: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """See `Backend.add_linear`."""
    y, smalls = torch.empty_like(residual), _smalls(x, [projection])
    _project(kernels, x, None, None, [projection], [y], smalls, residual)
    return y, smalls[0]


def add_linear_backward(
    kernels: Any, projection: Projection, x: torch.Tensor | None, small: torch.Tensor | None, grad: torch.Tensor
) -> tuple[torch.Tensor, Gradients]:
    """See `Backend.add_linear_backward`."""
    grad_smalls = _smalls(grad, [projection])
    grad_x = grad.new_empty(len(grad), projection.weight.shape[1])
    kernels.project_backward(
        *(_pointers([grad]), len(grad), _linears([projection]), 1, None, None, None, None),
        *(_pointers(grad_smalls), None, grad_x),
    )
    return grad_x, _factor_gradients(kernels, [projection], [x], [small], [grad], grad_smalls)


def norm_linears_backward(
    kernels: Any,
    start: NormedInput,
    projections: Sequence[Projection],
    smalls: Sequence[torch.Tensor | None],
    grads: Sequence[torch.Tensor],
    residual: torch.Tensor | None,
) -> tuple[torch.Tensor | None, Gradients]:
    """See `Backend.norm_linears_backward`."""
    x, grad_smalls = start.x, _smalls(start.x, projections)
    normed = torch.empty_like(x) if any(one.lora for one in projections) else None
    grad_x = None if residual is None else torch.empty_like(x)
    kernels.project_backward(
        *(_pointers(grads), len(x), _linears(projections), len(projections), _norm(start.norm), x, start.rstd),
        *(residual, _pointers(grad_smalls), normed, grad_x),
    )
    inputs = [normed] * len(projections)
    return grad_x, _factor_gradients(kernels, projections, inputs, smalls, grads, grad_smalls)


def mlp(
    kernels: Any, x: torch.Tensor, norm: Norm, projections: Sequence[Projection]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Smalls, torch.Tensor]:
    """See `Backend.mlp`."""
    gate, up = (x.new_empty(len(x), len(one.weight)) for one in projections[:2])
    smalls, rstd, y = _smalls(x, projections), x.new_empty((len(x), 1), dtype=torch.float32), torch.empty_like(x)
    kernels.mlp_forward(x, len(x), _norm(norm), rstd, _linears(projections), gate, up, _pointers(smalls), y)
    return y, gate, up, smalls, rstd


def mlp_backward(
    kernels: Any, saved: MlpSaved, grad: torch.Tensor, wants_grad_x: bool
) -> tuple[torch.Tensor | None, Gradients]:
    """See `Backend.mlp_backward`."""
    start, projections, gate, up = saved.start, saved.projections, saved.gate, saved.up
    x, grad_smalls = start.x, _smalls(start.x, projections)
    grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
    product = torch.empty_like(gate) if projections[2].lora else None
    normed = torch.empty_like(x) if projections[0].lora or projections[1].lora else None
    grad_x = torch.empty_like(x) if wants_grad_x else None
    kernels.mlp_backward(
        *(grad, len(x), _norm(start.norm), x, start.rstd, _linears(projections), gate, up, grad_gate, grad_up),
        *(_pointers(grad_smalls), product, normed, grad_x),
    )
    inputs, grads = [normed, normed, product], [grad_gate, grad_up, grad]
    return grad_x, _factor_gradients(kernels, projections, inputs, saved.smalls, grads, grad_smalls)


def _project(  # noqa: PLR0913, PLR0917 - as the C++ takes it
    kernels: Any,
    x: torch.Tensor,
    norm: Norm | None,
    rstd: torch.Tensor | None,
    projections: Sequence[Projection],
    outputs: Sequence[torch.Tensor],
    smalls: Smalls,
    residual: torch.Tensor | None,
) -> None:
    kernels.project_forward(
        *(x, len(x), norm and _norm(norm), rstd, _linears(projections), len(projections)),
        *(_pointers(outputs), _pointers(smalls), residual),
    )


def _factor_gradients(
    kernels: Any,
    projections: Sequence[Projection],
    inputs: Sequence[torch.Tensor | None],
    smalls: Sequence[torch.Tensor | None],
    grads: Sequence[torch.Tensor],
    grad_smalls: Smalls,
) -> Gradients:
    """Return the gradients of A and B of each, for what it was given, made of it, and their gradients."""
    found: Gradients = []
    wanted: list[_Gradient] = []
    for one, x, small, grad, grad_small in zip(projections, inputs, smalls, grads, grad_smalls, strict=True):
        if one.lora is None or x is None or small is None or grad_small is None:
            found += [None] * PER_PROJECTION
            continue
        grad_a, grad_b = torch.empty_like(one.lora.a), torch.empty_like(one.lora.b)
        (rank, width), out = grad_a.shape, len(grad_b)
        wanted += [
            _Gradient(*map(torch.Tensor.data_ptr, (grad_small, x, grad_a)), rank, width, width, 1, 1.0),
            _Gradient(*map(torch.Tensor.data_ptr, (small, grad, grad_b)), rank, out, 1, rank, one.lora.scaling),
        ]
        found += [None, None, grad_a, grad_b, None]
    if wanted:
        kernels.factor_gradients((_Gradient * len(wanted))(*wanted), len(wanted), len(grads[0]))
    return found


def _smalls(x: torch.Tensor, projections: Sequence[Projection]) -> Smalls:
    return [x.new_empty(len(x), len(one.lora.a)) if one.lora else None for one in projections]


def _linears(projections: Sequence[Projection]) -> Any:
    return (_Linear * len(projections))(*map(_linear, projections))


def _linear(one: Projection) -> _Linear:
    lora = one.lora
    bias = None if one.bias is None else one.bias.data_ptr()
    factors = (lora.a.data_ptr(), lora.b.data_ptr()) if lora else (None, None)
    rank, scaling = (len(lora.a), lora.scaling) if lora else (0, 1.0)
    return _Linear(one.weight.data_ptr(), *one.weight.stride(), bias, *factors, *one.weight.shape, rank, scaling)


def _norm(norm: Norm) -> Any:
    return ctypes.byref(_Norm(norm.weight.data_ptr(), len(norm.weight), norm.epsilon))


def _pointers(tensors: Sequence[torch.Tensor | None]) -> Any:
    return (_Pointer * len(tensors))(*(None if tensor is None else tensor.data_ptr() for tensor in tensors))
