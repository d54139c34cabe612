"""What the halves of a decoder layer consist of, by PyTorch's products and the passes in `pointwise`.

`kernel_parts` has the same for what kernels compute in one go. A half uses the one or the other, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lorakit.engine.ops.pointwise import gated, gated_gradients, norm_gradient, normed
from lorakit.engine.ops.projections import Projection, gradients_of, output_of
from lorakit.engine.ops.scratch import scratch

Gradients = list[torch.Tensor | None]  # of the tensors of projections, in their order
Smalls = list[torch.Tensor | None]  # what adapters make of their input, each [tokens, rank]


@dataclass(frozen=True)
class Norm:
    """A frozen RMSNorm: its weight [width], and what is added to the mean square."""

    weight: torch.Tensor
    epsilon: float


@dataclass(frozen=True)
class Start:
    """Where a half starts: x [tokens, hidden], its norm, and what that has multiplied x by [tokens, 1]."""

    x: torch.Tensor
    norm: Norm
    rstd: torch.Tensor


class TorchParts:
    """As the module says."""

    def normed_outputs(
        self, x: torch.Tensor, norm: Norm, projections: Sequence[Projection], places: Sequence[torch.Tensor | None]
    ) -> tuple[list[torch.Tensor], Smalls, torch.Tensor]:
        """Return what each projection makes of norm(x), perhaps written to a place, what its adapter does, and rstd."""
        normed_x, rstd = normed(x, norm.weight, norm.epsilon, scratch("norm", x.shape, x.dtype))
        each = [output_of(normed_x, one, place) for one, place in zip(projections, places, strict=True)]
        return [y for y, _ in each], [small for _, small in each], rstd

    def added_output(
        self, x: torch.Tensor, projection: Projection, rest: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return rest + projection(x), and what its adapter makes of x."""
        y, small = output_of(x, projection)
        return y.add_(rest), small

    def gradients_of_output(
        self, projection: Projection, x: torch.Tensor | None, small: torch.Tensor | None, grad: torch.Tensor
    ) -> tuple[torch.Tensor, Gradients]:
        """Return the gradient of x, and those of the projection's tensors, for that of its output [tokens, out]."""
        grad_x, found = gradients_of(projection, x, small, grad, None, True)
        assert grad_x is not None
        return grad_x, found

    def gradients_of_normed(
        self,
        start: Start,
        projections: Sequence[Projection],
        smalls: Sequence[torch.Tensor | None],
        grads: Sequence[torch.Tensor],
        rest: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, Gradients]:
        """Return the gradient of x, and those of the tensors of the projections that follow its norm.

        Args:
            start: x and its norm.
            projections: All of the normed x.
            smalls: What their adapters made of it, each [tokens, rank].
            grads: Of what they returned, each [tokens, out].
            rest: What else is in the gradient of x; None where that is not wanted.
        """
        has_lora = any(one.lora for one in projections)
        normed_x = normed(start.x, start.norm.weight, start.norm.epsilon)[0] if has_lora else None
        grad_normed, found = None, []
        for one, small, grad in zip(projections, smalls, grads, strict=True):
            grad_normed, gradients = gradients_of(one, normed_x, small, grad, grad_normed, rest is not None)
            found += gradients
        if grad_normed is None:
            return None, found
        return norm_gradient(grad_normed, start.x, start.norm.weight, start.rstd, rest), found

    def mlp(
        self, x: torch.Tensor, norm: Norm, projections: Sequence[Projection]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Smalls, torch.Tensor]:
        """Return x + down(silu(gate) up), gate and up [tokens, inner] of norm(x), what the adapters made, and rstd."""
        (gate, up), smalls, rstd = self.normed_outputs(x, norm, projections[:2], (None, None))
        y, small = self.added_output(gated(gate, up, scratch("product", gate.shape, x.dtype)), projections[2], x)
        return y, gate, up, [*smalls, small], rstd

    def mlp_gradients(
        self,
        start: Start,
        projections: Sequence[Projection],
        smalls: Sequence[torch.Tensor | None],
        gate: torch.Tensor,
        up: torch.Tensor,
        grad: torch.Tensor,
        wants_grad_x: bool,
    ) -> tuple[torch.Tensor | None, Gradients]:
        """Return the gradient of x, and those of the tensors of gate, up and down, for that of `mlp`'s y."""
        product = gated(gate, up) if projections[2].lora else None
        grad_product, of_last = self.gradients_of_output(projections[2], product, smalls[2], grad)
        grads = gated_gradients(grad_product, gate, up)
        rest = grad if wants_grad_x else None
        grad_x, of_inner = self.gradients_of_normed(start, projections[:2], smalls[:2], grads, rest)
        return grad_x, [*of_inner, *of_last]
