"""Every operation by PyTorch's own, on any device and in any format.

Sources: Zhang and Sennrich, 2019, "Root Mean Square Layer Normalization", arXiv 1910.07467; Su et al., 2021,
"RoFormer", arXiv 2104.09864; Shazeer, 2020, "GLU Variants Improve Transformer", arXiv 2002.05202; Hu et al., 2021,
"LoRA", arXiv 2106.09685. The gradients follow by hand and are held against finite differences in tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import linear, silu

from lorakit.engine.backends.base import Backend, VariableLengthAttention
from lorakit.engine.backends.operands import (
    PER_PROJECTION,
    AttentionInputs,
    Gradients,
    MlpSaved,
    Norm,
    NormedInput,
    Projection,
    Smalls,
)
from lorakit.engine.backends.torch.attention import attend, fill_gradients
from lorakit.engine.backends.torch.variable_length import variable_length_for


class TorchBackend(Backend):
    """As the module says.

    Args:
        reason: Why nothing faster computes.
        device_type: Where the model lies. GPUs' attention takes sequences that lie apart, and all their tokens.
    """

    name = "PyTorch"

    def __init__(self, reason: str = "", device_type: str = "cpu") -> None:
        super().__init__(reason)
        is_cpu = device_type == "cpu"
        self.fuses_layers = self.attends_packed = self.shares_prefix = self.trims_last_layer = is_cpu

    def rms_norm(
        self, x: torch.Tensor, weight: torch.Tensor, epsilon: float, out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Backend.rms_norm`; statistics in float32."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        rstd = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        return (wide * rstd).to(x.dtype).mul_(weight), rstd

    def rms_norm_backward(
        self,
        grad: torch.Tensor,
        x: torch.Tensor,
        weight: torch.Tensor,
        rstd: torch.Tensor,
        residual_grad: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `Backend.rms_norm_backward`."""
        wide = x.to(rstd.dtype)
        scaled = (grad * weight).to(rstd.dtype)
        # dx = r (g - x r^2 mean(g x)) with g = w dy and r the inverse root
        share = torch.linalg.vecdot(scaled, wide).unsqueeze(-1).mul_(rstd.square()).div_(x.shape[-1])
        grad_x = scaled.addcmul_(wide, share, value=-1).mul_(rstd)
        return (grad_x if residual_grad is None else grad_x.add_(residual_grad)).to(x.dtype)

    def rope(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_backward: bool = False) -> torch.Tensor:
        """See `Backend.rope`."""
        half = sin.shape[-1] // 2
        first, second = (sin[..., half:], -sin[..., :half]) if is_backward else (-sin[..., :half], sin[..., half:])
        rotated = x * cos
        rotated[..., :half].addcmul_(x[..., half:], first)
        rotated[..., half:].addcmul_(x[..., :half], second)
        return rotated

    def swiglu(self, gate: torch.Tensor, up: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """See `Backend.swiglu`."""
        return silu(gate).mul_(up)

    def swiglu_backward(
        self, grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Backend.swiglu_backward`; silu is taken anew rather than kept."""
        return torch.ops.aten.silu_backward(grad * up, gate), silu(gate).mul_(grad)

    def matmul(
        self,
        left: torch.Tensor,
        right: torch.Tensor,
        bias: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """See `Backend.matmul`; a weight in float16 is widened for the moment."""
        right = right.to(left.dtype)
        return torch.mm(left, right, out=out) if bias is None else torch.addmm(bias, left, right, out=out)

    def addmm(self, total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """See `Backend.addmm`."""
        return self.matmul(left, right) if total is None else total.addmm_(left, right.to(left.dtype))

    def attention(self, inputs: AttentionInputs) -> tuple[torch.Tensor, ...]:
        """See `Backend.attention`."""
        return attend(inputs)

    def attention_backward(
        self, inputs: AttentionInputs, grad: torch.Tensor, kept: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """See `Backend.attention_backward`."""
        gradients = inputs.empty_gradients()
        fill_gradients(gradients, grad.transpose(0, 1), kept, inputs)
        return gradients

    def variable_length_attention(self, query: torch.Tensor, dropout: float) -> VariableLengthAttention | None:
        """See `Backend.variable_length_attention`."""
        return variable_length_for(query, dropout)

    def nll(
        self, logits: torch.Tensor, targets: torch.Tensor, wants_gradient: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Backend.nll`."""
        exponents = logits
        if logits.dtype.itemsize < torch.float32.itemsize:
            exponents = self.workspace.take("exponents", logits.shape, logits.new_empty(0, dtype=torch.float32))
            exponents.copy_(logits)
        at_target = exponents.gather(1, targets[:, None])
        largest = exponents.amax(dim=-1, keepdim=True)  # [targets, 1]
        total = exponents.sub_(largest).exp_().sum(dim=-1, keepdim=True)  # [targets, 1]
        nats = (total.log() + largest - at_target).squeeze(-1)
        if not wants_gradient:
            return nats, None
        if logits.dtype is torch.float16:  # it ends at 65,504, which the total may exceed
            exponents.div_(total)
            total.fill_(1)
        exponents.scatter_add_(1, targets[:, None], -total)
        if exponents is not logits:
            logits.copy_(exponents)
        return nats, total

    def logit_bytes(self, dtype: torch.dtype) -> int:
        """See `Backend.logit_bytes`."""
        is_copied = dtype.itemsize < torch.float32.itemsize
        return int(dtype.itemsize + (torch.float32.itemsize if is_copied else 0))

    def lora_linear(
        self, x: torch.Tensor, one: Projection, out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Backend.lora_linear`."""
        y = self.matmul(x, one.weight.T, one.bias, out)
        if one.lora is None:
            return y, None
        a, b = one.lora.cast(x.dtype)
        small = linear(one.lora.dropped(x), a)
        return y.addmm_(small, b.T), small

    def lora_linear_backward(
        self,
        one: Projection,
        x: torch.Tensor | None,
        small: torch.Tensor | None,
        grad: torch.Tensor,
        grad_x: torch.Tensor | None,
        wants_grad_x: bool,
    ) -> tuple[torch.Tensor | None, Gradients]:
        """See `Backend.lora_linear_backward`."""
        if wants_grad_x:
            grad_x = self.addmm(grad_x, grad, one.weight)
        if one.lora is None or x is None or small is None:
            return grad_x, [None] * PER_PROJECTION
        a, b = one.lora.cast(grad.dtype)
        grad_small = grad @ b  # [tokens, rank]
        grad_b = (grad.T @ small).to(one.lora.b.dtype) * one.lora.scaling
        grad_a = (grad_small.T @ one.lora.dropped(x)).to(one.lora.a.dtype)
        if grad_x is not None and one.lora.keep_mask is None:
            grad_x = self.addmm(grad_x, grad_small, a)
        elif grad_x is not None:
            grad_x += (grad_small @ a) * one.lora.keep_mask
        return grad_x, [None, None, grad_a, grad_b, None]

    def norm_linears(
        self,
        x: torch.Tensor,
        norm: Norm,
        projections: Sequence[Projection],
        outs: Sequence[torch.Tensor | None],
    ) -> tuple[list[torch.Tensor], Smalls, torch.Tensor]:
        """See `Backend.norm_linears`."""
        normed, rstd = self.rms_norm(x, norm.weight, norm.epsilon, self.workspace.take("norm", x.shape, x))
        each = [self.lora_linear(normed, one, out) for one, out in zip(projections, outs, strict=True)]
        return [y for y, _ in each], [small for _, small in each], rstd

    def norm_linears_backward(
        self,
        start: NormedInput,
        projections: Sequence[Projection],
        smalls: Sequence[torch.Tensor | None],
        grads: Sequence[torch.Tensor],
        residual_grad: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, Gradients]:
        """See `Backend.norm_linears_backward`."""
        has_lora = any(one.lora for one in projections)
        normed = self.rms_norm(start.x, start.norm.weight, start.norm.epsilon)[0] if has_lora else None
        grad_normed, found, wants_grad_x = None, [], residual_grad is not None
        for one, small, grad in zip(projections, smalls, grads, strict=True):
            grad_normed, gradients = self.lora_linear_backward(one, normed, small, grad, grad_normed, wants_grad_x)
            found += gradients
        if grad_normed is None:
            return None, found
        return self.rms_norm_backward(grad_normed, start.x, start.norm.weight, start.rstd, residual_grad), found

    def add_linear(
        self, x: torch.Tensor, projection: Projection, residual: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `Backend.add_linear`."""
        y, small = self.lora_linear(x, projection)
        return y.add_(residual), small

    def mlp(
        self, x: torch.Tensor, norm: Norm, projections: Sequence[Projection]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Smalls, torch.Tensor]:
        """See `Backend.mlp`."""
        (gate, up), smalls, rstd = self.norm_linears(x, norm, projections[:2], (None, None))
        product = self.swiglu(gate, up, self.workspace.take("product", gate.shape, gate))
        y, small = self.add_linear(product, projections[2], x)
        return y, gate, up, [*smalls, small], rstd

    def mlp_backward(
        self, saved: MlpSaved, grad: torch.Tensor, wants_grad_x: bool
    ) -> tuple[torch.Tensor | None, Gradients]:
        """See `Backend.mlp_backward`."""
        gate, up, projections, smalls = saved.gate, saved.up, saved.projections, saved.smalls
        product = self.swiglu(gate, up) if projections[2].lora else None
        grad_product, of_last = self.add_linear_backward(projections[2], product, smalls[2], grad)
        grads = self.swiglu_backward(grad_product, gate, up)
        residual_grad = grad if wants_grad_x else None
        grad_x, of_inner = self.norm_linears_backward(saved.start, projections[:2], smalls[:2], grads, residual_grad)
        return grad_x, [*of_inner, *of_last]
