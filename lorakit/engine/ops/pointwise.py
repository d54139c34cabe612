"""RMSNorm, rotary embedding and the gated MLP's product as single autograd functions.

Between two matrix products transformers runs a chain of small operations, each a pass over memory and each saving its
own copies for the backward pass: without them a step is faster, and keeps less than half as much per token. The
formulas are those of the Llama and Qwen families; a module of another kind keeps its own forward.

Sources: Zhang and Sennrich, 2019, "Root Mean Square Layer Normalization", arXiv 1910.07467; Su et al., 2021,
"RoFormer", arXiv 2104.09864; Shazeer, 2020, "GLU Variants Improve Transformer", arXiv 2002.05202. The gradients follow
by hand and are held against finite differences in tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import silu

from lorakit.engine.backends.cpu.kernels import kernels_for
from lorakit.engine.layers.lora_linear import apply_linears

# Families whose modules compute exactly these formulas.
_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "qwen3_vl")
_MODULES = tuple(f"transformers.models.{family}.modeling_{family}" for family in _FAMILIES)


class RmsNorm(torch.autograd.Function):
    """y = w x / sqrt(mean(x^2) + epsilon) over the last dimension, with a frozen w; statistics in float32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:  # type: ignore[override]
        """Normalise x [..., width] with weight [width]."""
        y, inverse = normed(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradient of x."""
        return norm_gradient(grad.contiguous(), *ctx.saved_tensors), None, None


def normed(
    x: torch.Tensor, weight: torch.Tensor, epsilon: float, place: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return y as in `RmsNorm`, perhaps written to a place of its shape, and what x was multiplied by, [..., 1]."""
    if kernels := kernels_for(x, weight):
        y = torch.empty_like(x) if place is None else place
        inverse = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
        kernels.rms_norm_forward(x, weight, y, inverse, inverse.numel(), x.shape[-1], epsilon)
        return y, inverse
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    inverse = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
    return (wide * inverse).to(x.dtype).mul_(weight), inverse


def norm_gradient(
    grad: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, inverse: torch.Tensor, rest: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the gradient of x for that of y [..., width], with the rest of it added, if there is one."""
    if kernels := kernels_for(x, weight, grad, *(() if rest is None else (rest,))):
        grad_x = torch.empty_like(x)
        kernels.rms_norm_backward(grad, x, weight, inverse, rest, grad_x, inverse.numel(), x.shape[-1])
        return grad_x
    wide = x.to(inverse.dtype)
    scaled = (grad * weight).to(inverse.dtype)
    # dx = r (g - x r^2 mean(g x)) with g = w dy and r the inverse root
    share = torch.linalg.vecdot(scaled, wide).unsqueeze(-1).mul_(inverse.square()).div_(x.shape[-1])
    grad_x = scaled.addcmul_(wide, share, value=-1).mul_(inverse)
    return (grad_x if rest is None else grad_x.add_(rest)).to(x.dtype)


class Rotary(torch.autograd.Function):
    """Rotate the pairs (x_i, x_(i + size/2)) by the angles of their position."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Rotate x [rows, heads, tokens, size] by cos and sin [rows, 1, tokens, size]."""
        ctx.save_for_backward(cos, sin)
        return rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Rotate back."""
        cos, sin = ctx.saved_tensors
        return rotated(grad, cos, sin, is_back=True), None, None


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_back: bool = False) -> torch.Tensor:
    """Return x [rows, heads, tokens, size] rotated by cos and sin [rows, 1, tokens, size], or rotated back."""
    if (found := _rotated_in_one_pass(x, cos, sin, is_back)) is not None:
        return found
    half = sin.shape[-1] // 2
    if is_back:
        return _rotated(x, cos, sin[..., half:], -sin[..., :half])
    return _rotated(x, cos, -sin[..., :half], sin[..., half:])


def _rotated(x: torch.Tensor, cos: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return x cos + swapped(x) (first, second), where swapped exchanges the halves of the last dimension."""
    half = x.shape[-1] // 2
    rotated = x * cos
    rotated[..., :half].addcmul_(x[..., half:], first)
    rotated[..., half:].addcmul_(x[..., :half], second)
    return rotated


def _rotated_in_one_pass(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, is_back: bool) -> torch.Tensor | None:
    """Rotate by the kernel; None where it does not serve.

    The result lies head by head, as attention reads it, and its gradient token by token, as the projection wrote it.
    """
    kernels = kernels_for(cos, sin)
    rows, heads, tokens, size = x.shape
    has_own_angles = cos.shape == sin.shape == (rows, 1, tokens, size)
    if kernels is None or rows != 1 or not has_own_angles or x.stride(-1) != 1 or x.dtype is not cos.dtype:
        return None
    rotated = x.new_empty(1, tokens, heads, size).transpose(1, 2) if is_back else x.new_empty(x.shape)
    strides = (x.stride(1), x.stride(2), rotated.stride(1), rotated.stride(2))
    kernels.rotary(x, cos, sin, rotated, heads, tokens, size, *strides, -1.0 if is_back else 1.0)
    return rotated


class SwiGlu(torch.autograd.Function):
    """y = silu(gate) up; silu is taken anew in the backward pass rather than kept."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Multiply two tensors of one shape."""
        ctx.save_for_backward(gate, up)
        return gated(gate, up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of gate and up."""
        return gated_gradients(grad.contiguous(), *ctx.saved_tensors)


def gated(gate: torch.Tensor, up: torch.Tensor, place: torch.Tensor | None = None) -> torch.Tensor:
    """Return silu(gate) up, perhaps written to a place of its shape."""
    if kernels := kernels_for(gate, up):
        product = torch.empty_like(gate) if place is None else place
        kernels.gated_forward(gate, up, product, gate.numel())
        return product
    return silu(gate).mul_(up)


def gated_gradients(grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of gate and up for that of their product."""
    if kernels := kernels_for(gate, up, grad):
        grad_gate, grad_up = torch.empty_like(gate), torch.empty_like(up)
        kernels.gated_backward(grad, gate, up, grad_gate, grad_up, gate.numel())
        return grad_gate, grad_up
    return torch.ops.aten.silu_backward(grad * up, gate), silu(gate).mul_(grad)


def rotated_by(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, unsqueeze_dim: int = 1) -> torch.Tensor:
    """Rotate x [rows, heads, tokens, size] by cos and sin [rows, tokens, size]."""
    return Rotary.apply(x, cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim))  # type: ignore[no-any-return]


def is_known(module: torch.nn.Module) -> bool:
    """Whether a module is of a family whose formulas are the ones above."""
    return type(module).__module__ in _MODULES


def accelerate_pointwise(model: torch.nn.Module) -> int:
    """Let the modules of the families above compute with these functions.

    A norm whose weight is trained goes back to its own forward by itself.

    Returns:
        How many modules were prepared.
    """
    prepared = 0
    for module in model.modules():
        if not is_known(module) or "forward" in vars(module):
            continue
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = _norm_forward(module)
        elif hasattr(module, "gate_proj") and is_silu(module):
            module.forward = _gated_forward(module)
        else:
            continue
        prepared += 1
    return prepared


def is_silu(mlp: Any) -> bool:
    """Whether a gated MLP is of the kind above."""
    return mlp.config.hidden_act in {"silu", "swish"}


def _norm_forward(norm: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    own_forward = norm.forward

    def forward(hidden_states: torch.Tensor) -> torch.Tensor:
        if norm.weight.requires_grad:
            return own_forward(hidden_states)  # type: ignore[no-any-return]
        return RmsNorm.apply(hidden_states, norm.weight, norm.variance_epsilon)  # type: ignore[no-any-return]

    return forward


def _gated_forward(mlp: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        gate, up = apply_linears(x, (mlp.gate_proj, mlp.up_proj))
        return mlp.down_proj(SwiGlu.apply(gate, up))  # type: ignore[no-any-return]

    return forward
