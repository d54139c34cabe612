"""RMSNorm, rotary embedding and the gated MLP's product as single autograd functions.

Between two matrix products transformers runs a chain of small operations, each a pass over memory and each saving its
own copies for the backward pass: without them a step is faster, and keeps less than half as much per token.
"""

from __future__ import annotations

from typing import Any

import torch

from lorakit.engine.backends.base import Backend


class RmsNorm(torch.autograd.Function):
    """y = w x / sqrt(mean(x^2) + epsilon) over the last dimension, with a frozen w."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float, backend: Backend
    ) -> torch.Tensor:
        """Normalise x [..., width] with weight [width]."""
        y, rstd = backend.rms_norm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, rstd)
        ctx.backend = backend
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradient of x."""
        return ctx.backend.rms_norm_backward(grad.contiguous(), *ctx.saved_tensors), None, None, None


class Rope(torch.autograd.Function):
    """Rotate the pairs (x_i, x_(i + size/2)) by the angles of their position."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, backend: Backend
    ) -> torch.Tensor:
        """Rotate x [rows, heads, tokens, size] by cos and sin [rows, 1, tokens, size]."""
        ctx.save_for_backward(cos, sin)
        ctx.backend = backend
        return backend.rope(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Rotate back."""
        cos, sin = ctx.saved_tensors
        return ctx.backend.rope(grad, cos, sin, is_backward=True), None, None, None


class SwiGlu(torch.autograd.Function):
    """y = silu(gate) up; silu is taken anew in the backward pass rather than kept."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, backend: Backend) -> torch.Tensor:  # type: ignore[override]
        """Multiply two tensors of one shape."""
        ctx.save_for_backward(gate, up)
        ctx.backend = backend
        return backend.swiglu(gate, up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of gate and up."""
        return *ctx.backend.swiglu_backward(grad.contiguous(), *ctx.saved_tensors), None


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, backend: Backend) -> torch.Tensor:
    """Rotate x [rows, heads, tokens, size] by cos and sin [rows, tokens, size]."""
    return Rope.apply(x, cos.unsqueeze(1), sin.unsqueeze(1), backend)  # type: ignore[no-any-return]
