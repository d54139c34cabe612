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

from lorakit.engine.ops.products import plus_product, product

PER_PROJECTION = 5  # tensors


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
        weight: [out, in]; a transposed view of GPT-2's [in, out] serves as well. In float16 perhaps, where all else is
            float32.
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
        scalings, tensors = flatten(projections)
        outputs = Projections.apply(flat, scalings, *tensors)
    else:  # token by token, autograd's bookkeeping takes a twentieth of the time
        outputs = tuple(output_of(flat, one)[0] for one in projections)
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
        for one in split(scalings, tensors):
            y, small = output_of(x, one)
            outputs.append(y)
            smalls.append(small)
        has_lora = any(small is not None for small in smalls)
        ctx.save_for_backward(x if has_lora else None, *smalls, *tensors)
        ctx.scalings = scalings
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:  # type: ignore[override]
        """Return the gradients of x and of every A and B for those of every y [tokens, out]."""
        x, *saved = ctx.saved_tensors
        smalls, tensors = saved[: len(grads)], saved[len(grads) :]
        grad_x: torch.Tensor | None = None
        found: list[torch.Tensor | None] = []
        for one, small, grad in zip(split(ctx.scalings, tensors), smalls, grads, strict=True):
            gradients: list[torch.Tensor | None] = [None] * PER_PROJECTION
            if grad is not None:
                grad_x, gradients = gradients_of(one, x, small, grad, grad_x, ctx.needs_input_grad[0])
            found += gradients
        return grad_x, None, *found


def flatten(projections: Sequence[Projection]) -> tuple[tuple[float, ...], tuple[torch.Tensor | None, ...]]:
    """Take projections apart into scalings and tensors, as autograd functions take and save them."""
    scalings = tuple(one.lora.scaling if one.lora else 1.0 for one in projections)
    return scalings, tuple(tensor for one in projections for tensor in one.tensors())


def split(scalings: Sequence[float], tensors: Sequence[Any]) -> list[Projection]:
    """Put together what `flatten` has taken apart."""
    starts = range(0, len(tensors), PER_PROJECTION)
    return [
        _projection(scaling, *tensors[at : at + PER_PROJECTION]) for scaling, at in zip(scalings, starts, strict=True)
    ]


def output_of(
    x: torch.Tensor, one: Projection, place: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return y [tokens, out], written to a place if there is one, and what the adapter makes of x [tokens, rank]."""
    y = product(x, one.weight.T, one.bias, place)
    if one.lora is None:
        return y, None
    a, b = one.lora.cast(x.dtype)
    small = linear(one.lora.seen(x), a)
    return y.addmm_(small, b.T), small


def gradients_of(
    one: Projection,
    x: Any,
    small: Any,
    grad: torch.Tensor,
    grad_x: torch.Tensor | None,
    wants_grad_x: bool,
) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """Return the gradient of x, and those of a projection's tensors, for that of y.

    Args:
        one: The projection.
        x: [tokens, in]; None without an adapter.
        small: What the adapter made of it, [tokens, rank]; None without one.
        grad: [tokens, out]
        grad_x: What other projections have given to the gradient of x, [tokens, in]; is added to.
        wants_grad_x: Otherwise it stays as it is.
    """
    if wants_grad_x:
        grad_x = plus_product(grad_x, grad, one.weight)
    if one.lora is None:
        return grad_x, [None] * PER_PROJECTION
    a, b = one.lora.cast(grad.dtype)
    grad_small = grad @ b  # [tokens, rank]
    grad_b = (grad.T @ small).to(one.lora.b.dtype) * one.lora.scaling
    grad_a = (grad_small.T @ one.lora.seen(x)).to(one.lora.a.dtype)
    if grad_x is not None and one.lora.keep_mask is None:
        grad_x = plus_product(grad_x, grad_small, a)
    elif grad_x is not None:
        grad_x += (grad_small @ a) * one.lora.keep_mask
    return grad_x, [None, None, grad_a, grad_b, None]


def _projection(scaling: float, weight: Any, bias: Any, a: Any, b: Any, keep_mask: Any) -> Projection:
    return Projection(weight, bias, None if a is None else LoraFactors(a, b, scaling, keep_mask))
