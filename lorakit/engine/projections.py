"""Linear layers of one input, each with LoRA or without, as ONE autograd function.

    y = x W^T + b + s * dropout(x) A^T B^T        for each of them

PEFT computes the two small products in float32 with a chain of casts and copies, each saved for the backward pass.
Here A and B stay float32 parameters but are cast to the activations' format once per call, and the backward pass needs
only x, dropout(x) A^T (a few columns wide) and, with dropout, one byte per element for the mask. The frozen weights get
no gradient. What several layers of one input (queries, keys and values; gate and up) give to its gradient is added up
by the products themselves, where autograd would take a pass over memory for each.

Source: Hu et al., 2021, "LoRA", arXiv 2106.09685; the gradients follow by hand and are held against autograd in tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear

_TENSORS = 5  # of a projection


@dataclass(frozen=True)
class LoraFactors:
    """An adapter on a linear layer.

    Attributes:
        a: [rank, in], float32.
        b: [out, rank], float32.
        scaling: lora_alpha / rank (over its root with rsLoRA), and over the share of inputs that dropout keeps.
        keep_mask: [tokens, in], True where dropout keeps an input; None without dropout.
    """

    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    keep_mask: torch.Tensor | None = None

    def cast(self, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return A and the scaled B in the format of the activations."""
        return self.a.to(dtype), (self.b * self.scaling).to(dtype)

    def seen(self, x: torch.Tensor) -> torch.Tensor:
        """Return what the adapter sees of x."""
        return x if self.keep_mask is None else x * self.keep_mask


@dataclass(frozen=True)
class Projection:
    """A frozen linear layer, and the adapter on it.

    Attributes:
        weight: [out, in]; a transposed view of GPT-2's [in, out] serves as well.
        bias: [out], or None.
        lora: None without an adapter.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    lora: LoraFactors | None = None

    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """Return all of them, in the order in which `_projection` takes them."""
        lora = self.lora
        return (self.weight, self.bias, *((lora.a, lora.b, lora.keep_mask) if lora else (None, None, None)))


def project(x: torch.Tensor, projections: Sequence[Projection]) -> tuple[torch.Tensor, ...]:
    """Return what each projection makes of x [..., in]: [..., out]."""
    flat = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        scalings = tuple(one.lora.scaling if one.lora else 1.0 for one in projections)
        outputs = Projections.apply(flat, scalings, *(tensor for one in projections for tensor in one.tensors()))
    else:  # token by token, autograd's bookkeeping takes a twentieth of the time
        outputs = tuple(_output(flat, one)[0] for one in projections)
    return tuple(y.view(*x.shape[:-1], y.shape[-1]) for y in outputs)


class Projections(torch.autograd.Function):
    """The outputs of several projections of one input."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, scalings: tuple[float, ...], *tensors: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        """Compute every y [tokens, out].

        Args:
            ctx: Of autograd.
            x: [tokens, in]
            scalings: Of each projection.
            tensors: Of each projection.
        """
        outputs, smalls = [], []
        for one in _split(scalings, tensors):
            y, small = _output(x, one)
            outputs.append(y)
            smalls.append(small)
        has_lora = any(small is not None for small in smalls)
        ctx.save_for_backward(x if has_lora else None, *smalls, *tensors)
        ctx.scalings, ctx.dtype = scalings, x.dtype
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:  # type: ignore[override]
        """Return the gradients of x and of every A and B for those of every y [tokens, out]."""
        x, *saved = ctx.saved_tensors
        smalls, tensors = saved[: len(grads)], saved[len(grads) :]
        grad_x: torch.Tensor | None = None
        found: list[torch.Tensor | None] = []
        for one, small, grad in zip(_split(ctx.scalings, tensors), smalls, grads, strict=True):
            if grad is None:
                found += [None] * _TENSORS
                continue
            if ctx.needs_input_grad[0]:
                grad_x = _plus_product(grad_x, grad, one.weight)
            grad_a = grad_b = None
            if one.lora is not None:
                a, b = one.lora.cast(ctx.dtype)
                grad_small = grad @ b  # [tokens, rank]
                grad_b = (grad.T @ small).to(one.lora.b.dtype) * one.lora.scaling
                grad_a = (grad_small.T @ one.lora.seen(x)).to(one.lora.a.dtype)
                if grad_x is not None and one.lora.keep_mask is None:
                    grad_x = _plus_product(grad_x, grad_small, a)
                elif grad_x is not None:
                    grad_x += (grad_small @ a) * one.lora.keep_mask
            found += [None, None, grad_a, grad_b, None]
        return grad_x, None, *found


def _output(x: torch.Tensor, one: Projection) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return y [tokens, out], and what the adapter makes of x [tokens, rank]."""
    y = linear(x, one.weight, one.bias)
    if one.lora is None:
        return y, None
    a, b = one.lora.cast(x.dtype)
    small = linear(one.lora.seen(x), a)
    return y.addmm_(small, b.T), small


def _plus_product(total: torch.Tensor | None, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    return left @ right if total is None else total.addmm_(left, right)


def _split(scalings: tuple[float, ...], tensors: Sequence[Any]) -> list[Projection]:
    starts = range(0, len(tensors), _TENSORS)
    return [_projection(scaling, *tensors[at : at + _TENSORS]) for scaling, at in zip(scalings, starts, strict=True)]


def _projection(scaling: float, weight: Any, bias: Any, a: Any, b: Any, keep_mask: Any) -> Projection:
    return Projection(weight, bias, None if a is None else LoraFactors(a, b, scaling, keep_mask))
