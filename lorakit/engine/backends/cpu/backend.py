"""Every operation by C++ compiled for this machine's processor (native/), where it serves; else by PyTorch's.

A run computes so from its first step to its last, resumed or not: the two round differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace

import torch

from lorakit.engine.backends.cpu import attention, blocks
from lorakit.engine.backends.cpu.build import BFLOAT16_BLOCKS, BFLOAT16_KERNELS, FLOAT32_BLOCKS, FLOAT32_KERNELS
from lorakit.engine.backends.cpu.half_products import multiply_half
from lorakit.engine.backends.cpu.library import load
from lorakit.engine.backends.operands import AttentionInputs, Gradients, MlpSaved, Norm, NormedInput, Projection, Smalls
from lorakit.engine.backends.torch.backend import TorchBackend
from lorakit.engine.runtime import processor

_SOURCES = {
    torch.float32: (FLOAT32_KERNELS, FLOAT32_BLOCKS),
    torch.bfloat16: (BFLOAT16_KERNELS, BFLOAT16_BLOCKS),
}
FORMATS = frozenset(_SOURCES)


class CpuBackend(TorchBackend):
    """As the module says.

    Args:
        dtype: In which the model computes, one of `FORMATS`.

    Raises:
        NoKernelsError: There is no library for this machine, or it cannot be loaded.
    """

    name = "C++"
    is_native = True

    def __init__(self, dtype: torch.dtype) -> None:
        passes, blocks_library = (vars(load(source)) for source in _SOURCES[dtype])
        self.kernels = SimpleNamespace(**blocks_library | passes)
        super().__init__(self.kernels.how)
        self.dtype = dtype
        # bfloat16 is multiplied in pairs by blocks.cpp. Where processors have no instruction for pairs, or AMX tiles,
        # which PyTorch uses, products stay with PyTorch.
        self._has_tiles = dtype is torch.bfloat16 and "amx_bf16" in processor.features()
        self._has_blocks = hasattr(self.kernels, "mlp_forward") and not self._has_tiles

    def serves(self, *tensors: torch.Tensor) -> bool:
        """Whether kernels can read each of these tensors as one block; not while a layer is compiled."""
        return not torch.compiler.is_compiling() and all(
            tensor.dtype is self.dtype and tensor.device.type == "cpu" and tensor.is_contiguous() for tensor in tensors
        )

    def rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Backend.rms_norm`."""
        if not self.serves(x, weight):
            return super().rms_norm(x, weight, epsilon, out)
        y = torch.empty_like(x) if out is None else out
        rstd = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
        self.kernels.rms_norm_forward(x, weight, y, rstd, rstd.numel(), x.shape[-1], epsilon)
        return y, rstd

    def rms_norm_backward(
        self,
        grad: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        rstd: torch.Tensor,
        residual_grad: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `Backend.rms_norm_backward`."""
        if not self.serves(x, weight, grad, *(() if residual_grad is None else (residual_grad,))):
            return super().rms_norm_backward(grad, x, weight, rstd, residual_grad)
        grad_x = torch.empty_like(x)
        self.kernels.rms_norm_backward(grad, x, weight, rstd, residual_grad, grad_x, rstd.numel(), x.shape[-1])
        return grad_x

    def rope(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_backward: bool = False) -> torch.Tensor:
        """See `Backend.rope`.

        The result lies head by head, as attention reads it, and its gradient token by token, as the projection wrote
        it.
        """
        rows, heads, tokens, size = x.shape
        has_own_angles = cos.shape == sin.shape == (rows, 1, tokens, size)
        if not self.serves(cos, sin) or rows != 1 or not has_own_angles or x.stride(-1) != 1 or x.dtype != cos.dtype:
            return super().rope(x, cos, sin, is_backward)
        rotated = x.new_empty(1, tokens, heads, size).transpose(1, 2) if is_backward else x.new_empty(x.shape)
        strides = (x.stride(1), x.stride(2), rotated.stride(1), rotated.stride(2))
        self.kernels.rotary(x, cos, sin, rotated, heads, tokens, size, *strides, -1.0 if is_backward else 1.0)
        return rotated

    def swiglu(self, gate: torch.Tensor, up: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """See `Backend.swiglu`."""
        if not self.serves(gate, up):
            return super().swiglu(gate, up, out)
        product = torch.empty_like(gate) if out is None else out
        self.kernels.gated_forward(gate, up, product, gate.numel())
        return product

    def swiglu_backward(
        self, grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Backend.swiglu_backward`."""
        if not self.serves(gate, up, grad):
            return super().swiglu_backward(grad, gate, up)
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        self.kernels.gated_backward(grad, gate, up, grad_gate, grad_up, gate.numel())
        return grad_gate, grad_up

    def matmul(
        self,
        left: torch.Tensor,
        right: torch.Tensor,
        bias: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `Backend.matmul`; a weight in float16 is multiplied as it is where the processor does that fast."""
        if left.dtype is not right.dtype:
            place = left.new_empty(len(left), right.shape[1]) if out is None else out
            if bias is not None:
                place.copy_(bias)  # [rows, columns]
            if multiply_half(left, right, place, adds=bias is not None):
                return place
        return super().matmul(left, right, bias, out)

    def addmm(self, total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """See `Backend.addmm`."""
        if total is not None and left.dtype is not right.dtype and multiply_half(left, right, total, adds=True):
            return total
        return super().addmm(total, left, right)

    def attention(self, inputs: AttentionInputs) -> tuple[torch.Tensor, ...]:
        """See `Backend.attention`."""
        return attention.forward(self.kernels, inputs) if self._attends(inputs) else super().attention(inputs)

    def attention_backward(
        self, inputs: AttentionInputs, grad: torch.Tensor, kept: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `Backend.attention_backward`."""
        if not self._attends(inputs):
            return super().attention_backward(inputs, grad, kept)
        return attention.backward(self.kernels, inputs, grad.contiguous(), kept[0])

    def _attends(self, inputs: AttentionInputs) -> bool:
        """Whether the kernels serve, and serve faster than PyTorch's products do where those have tiles."""
        tensors = (inputs.query, inputs.key, inputs.value)  # strides of heads and tokens are served
        return (
            all(tensor.stride(-1) == 1 for tensor in tensors)
            and self.serves(*(tensor[:0] for tensor in tensors))
            and (not self._has_tiles or attention.is_short(inputs))
        )

    def nll(
        self, logits: torch.Tensor, targets: torch.Tensor, wants_gradient: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Backend.nll`."""
        if not self.serves(logits):
            return super().nll(logits, targets, wants_gradient)
        nats = logits.new_empty(len(targets), dtype=torch.float32)
        self.kernels.cross_entropy(logits, targets, nats, *logits.shape, wants_gradient)
        return nats, None

    def logit_bytes(self, dtype: torch.dtype) -> int:
        """See `Backend.logit_bytes`."""
        return dtype.itemsize if dtype is self.dtype else super().logit_bytes(dtype)

    def norm_linears(
        self,
        x: torch.Tensor,
        norm: Norm,
        projections: Sequence[Projection],
        outs: Sequence[torch.Tensor | None],
    ) -> tuple[list[torch.Tensor], Smalls, torch.Tensor]:
        """See `Backend.norm_linears`."""
        if not self.serves_block(x, projections, norm):
            return super().norm_linears(x, norm, projections, outs)
        return blocks.norm_linears(self.kernels, x, norm, projections, outs)

    def norm_linears_backward(
        self,
        start: NormedInput,
        projections: Sequence[Projection],
        smalls: Sequence[torch.Tensor | None],
        grads: Sequence[torch.Tensor],
        residual_grad: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, Gradients]:
        """See `Backend.norm_linears_backward`."""
        if not self.serves_block(start.x, projections, start.norm):
            return super().norm_linears_backward(start, projections, smalls, grads, residual_grad)
        return blocks.norm_linears_backward(self.kernels, start, projections, smalls, grads, residual_grad)

    def add_linear(
        self, x: torch.Tensor, projection: Projection, residual: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Backend.add_linear`."""
        if not self.serves_block(x, [projection]):
            return super().add_linear(x, projection, residual)
        return blocks.add_linear(self.kernels, x, projection, residual)

    def add_linear_backward(
        self, projection: Projection, x: torch.Tensor | None, small: torch.Tensor | None, grad: torch.Tensor
    ) -> tuple[torch.Tensor, Gradients]:
        """See `Backend.add_linear_backward`."""
        if not self.serves_block(grad, [projection]):
            return super().add_linear_backward(projection, x, small, grad)
        return blocks.add_linear_backward(self.kernels, projection, x, small, grad)

    def mlp(
        self, x: torch.Tensor, norm: Norm, projections: Sequence[Projection]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Smalls, torch.Tensor]:
        """See `Backend.mlp`."""
        if not self.serves_block(x, projections, norm):
            return super().mlp(x, norm, projections)
        return blocks.mlp(self.kernels, x, norm, projections)

    def mlp_backward(
        self, saved: MlpSaved, grad: torch.Tensor, wants_grad_x: bool
    ) -> tuple[torch.Tensor | None, Gradients]:
        """See `Backend.mlp_backward`."""
        if not self.serves_block(saved.start.x, saved.projections, saved.start.norm):
            return super().mlp_backward(saved, grad, wants_grad_x)
        return blocks.mlp_backward(self.kernels, saved, grad, wants_grad_x)

    def serves_block(self, x: torch.Tensor, projections: Sequence[Projection], norm: Norm | None = None) -> bool:
        """Whether blocks.cpp computes half a layer of this input faster than PyTorch's products.

        Not served are dropout, weights in another format than x, and odd sizes where numbers are multiplied in pairs.
        """
        tensors = (x,) if norm is None else (x, norm.weight)
        return (
            self._has_blocks and self.serves(*tensors) and all(blocks.is_plain(one, self.dtype) for one in projections)
        )
