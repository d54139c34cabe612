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
from typing import Any

import torch

from lorakit.engine.backends.base import Backend
from lorakit.engine.backends.operands import PER_PROJECTION, Projection, flatten, split


def project(x: torch.Tensor, projections: Sequence[Projection], backend: Backend) -> tuple[torch.Tensor, ...]:
    """Return what each projection makes of x [..., in]: [..., out]."""
    flat = x.reshape(-1, x.shape[-1])
    if torch.is_grad_enabled():
        scalings, tensors = flatten(projections)
        outputs = LoraLinears.apply(flat, backend, scalings, *tensors)
    else:  # token by token, autograd's bookkeeping takes a twentieth of the time
        outputs = tuple(backend.lora_linear(flat, one)[0] for one in projections)
    return tuple(y.view(*x.shape[:-1], y.shape[-1]) for y in outputs)


class LoraLinears(torch.autograd.Function):
    """The outputs of several projections of one input."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, backend: Backend, scalings: tuple[float, ...], *tensors: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        """Compute every y [tokens, out].

        Args:
            ctx: Of autograd.
            x: [tokens, in]
            backend: Which computes.
            scalings: Of each projection.
            tensors: Of each projection.
        """
        outputs, smalls = [], []
        for one in split(scalings, tensors):
            y, small = backend.lora_linear(x, one)
            outputs.append(y)
            smalls.append(small)
        has_lora = any(small is not None for small in smalls)
        ctx.save_for_backward(x if has_lora else None, *smalls, *tensors)
        ctx.scalings, ctx.backend = scalings, backend
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
                grad_x, gradients = ctx.backend.lora_linear_backward(
                    one, x, small, grad, grad_x, ctx.needs_input_grad[0]
                )
            found += gradients
        return grad_x, None, None, *found
