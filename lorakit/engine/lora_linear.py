"""A LoRA linear layer as ONE autograd function, in place of PEFT's generic forward.

    y = x W^T + b + s * dropout(x) A^T B^T

PEFT computes the two small products in float32 with a chain of casts and copies, each saved for the backward pass.
Here A and B stay float32 parameters but are cast to the activations' format once per call, and the backward pass needs
only x, dropout(x) A^T (a few columns wide) and, with dropout, one byte per element for the mask. The frozen weight gets
no gradient.

Source: Hu et al., 2021, "LoRA", arXiv 2106.09685; the gradients follow by hand and are held against autograd in tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import linear


class LoraLinear(torch.autograd.Function):
    """The product above for x [tokens, in], A [rank, in] and B [out, rank]."""

    @staticmethod
    def forward(  # type: ignore[override]  # noqa: PLR0913, PLR0917 - autograd passes tensors one by one
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scaling: float,
        keep_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Compute y [tokens, out].

        Args:
            ctx: Of autograd.
            x: [tokens, in]
            weight: [out, in], frozen; a transposed view of GPT-2's [in, out] serves as well.
            bias: [out], frozen.
            lora_a: [rank, in]
            lora_b: [out, rank]
            scaling: lora_alpha / rank (over its root with rsLoRA).
            keep_mask: [tokens, in], True where dropout keeps an input, together with its probability folded into
                ``scaling`` by the caller; None without dropout.
        """
        a, b = lora_a.to(x.dtype), (lora_b * scaling).to(x.dtype)
        small = linear(x if keep_mask is None else x * keep_mask, a)  # [tokens, rank]
        y = linear(x, weight, bias)
        y.addmm_(small, b.T)
        ctx.save_for_backward(x, weight, lora_a, lora_b, small, keep_mask)
        ctx.scaling = scaling
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of x, A and B for the gradient of y [tokens, out]."""
        x, weight, lora_a, lora_b, small, keep_mask = ctx.saved_tensors
        a, b = lora_a.to(x.dtype), (lora_b * ctx.scaling).to(x.dtype)
        grad_small = grad @ b  # [tokens, rank]
        grad_b = (grad.T @ small).to(lora_b.dtype) * ctx.scaling
        grad_a = (grad_small.T @ (x if keep_mask is None else x * keep_mask)).to(lora_a.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ weight
            if keep_mask is None:
                grad_x.addmm_(grad_small, a)
            else:
                grad_x += (grad_small @ a) * keep_mask
        return grad_x, None, None, grad_a, grad_b, None, None


def accelerate_lora(model: Any) -> int:
    """Let every LoRA layer of a PEFT model that `LoraLinear` covers compute with it.

    A layer goes back to PEFT's own forward by itself whenever its state asks for more: a merged or disabled adapter,
    several active ones, DoRA, a trained bias, or a quantised base.

    Returns:
        How many layers were prepared.
    """
    from peft.tuners.lora import Linear
    from transformers.pytorch_utils import Conv1D

    layers = [
        module
        for module in model.modules()
        if type(module) is Linear
        and isinstance(module.base_layer, torch.nn.Linear | Conv1D)
        and "forward" not in vars(module)  # prepared when an earlier adapter was attached
    ]
    for layer in layers:
        layer.forward = _fast_forward(layer, is_transposed=isinstance(layer.base_layer, Conv1D))
    return len(layers)


def _fast_forward(layer: Any, is_transposed: bool) -> Callable[..., torch.Tensor]:
    peft_forward = layer.forward
    base = layer.base_layer

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        adapters = layer.active_adapters
        if args or kwargs or len(adapters) != 1 or not _is_covered(layer, adapters[0]):
            return peft_forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        name = adapters[0]
        probability = layer.lora_dropout[name].p if layer.training and hasattr(layer.lora_dropout[name], "p") else 0.0
        flat = x.reshape(-1, x.shape[-1])
        y = LoraLinear.apply(
            flat,
            base.weight.T if is_transposed else base.weight,
            base.bias,
            layer.lora_A[name].weight,
            layer.lora_B[name].weight,
            layer.scaling[name] / (1 - probability),
            _keep_mask(flat, probability) if probability else None,
        )
        return y.view(*x.shape[:-1], y.shape[-1])  # type: ignore[no-any-return]

    return forward


def _is_covered(layer: Any, name: str) -> bool:
    return (
        name in layer.lora_A
        and not layer.disable_adapters
        and not layer.merged
        and name not in layer.lora_variant  # DoRA and other variants
        and layer.lora_A[name].bias is None
        and layer.lora_B[name].bias is None
        and not layer.base_layer.weight.requires_grad
        and layer.base_layer.weight.is_floating_point()
    )


_WORD = 1 << 16  # dropout decides by 16 random bits: its probability is exact to 1/65536


def _keep_mask(x: torch.Tensor, probability: float) -> torch.Tensor:
    """Draw True with probability 1 - p for every element of x.

    On a CPU torch draws Bernoulli numbers one by one, at a fifth of a training step. Cutting 64 random bits into four
    is three times as fast.
    """
    if x.device.type != "cpu":
        return torch.rand(x.shape, device=x.device) >= probability
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    threshold = round(probability * _WORD) - _WORD // 2
    return (words.view(torch.int16)[: x.numel()] >= threshold).view(x.shape)
