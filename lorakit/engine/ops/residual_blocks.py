"""The halves of a decoder layer over packed rows, x + attention(norm(x)) and x + mlp(norm(x)), as autograd functions.

Made of a dozen functions, a layer keeps for the backward pass what each of them needs. As one function, each half keeps
what is dear to compute: norms and gated products are computed anew in the backward pass, at a hundredth of a step; what
the forward pass forgets at once goes to scratch memory; and the gradients of the residual stream are added up in the
pass that computes the norm's.

Source: Touvron et al., 2023, "LLaMA", arXiv 2302.13971, for the layer; the gradients follow by hand and are held
against finite differences in tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lorakit.engine.backends.cpu.parts import KernelParts, kernel_parts_for
from lorakit.engine.backends.torch.parts import Norm, Start, TorchParts
from lorakit.engine.ops.pointwise import norm_gradient, normed, rotated
from lorakit.engine.ops.projections import PER_PROJECTION, Projection, flatten, split
from lorakit.engine.ops.row_attention import Asked, Span, attended, attention_gradients
from lorakit.engine.ops.scratch import scratch


@dataclass(frozen=True)
class Heads:
    """How queries and keys become heads.

    Attributes:
        size: Of a head.
        scaling: Of the products of queries and keys.
        spans: The sequences.
        cos: Of the tokens' positions, [1, 1, tokens, size].
        sin: The same.
        query_norm: Over each head; None in families without.
        key_norm: The same.
    """

    size: int
    scaling: float
    spans: tuple[Span, ...]
    cos: torch.Tensor
    sin: torch.Tensor
    query_norm: Norm | None = None
    key_norm: Norm | None = None

    def cut(self, projected: torch.Tensor) -> torch.Tensor:
        """Cut [tokens, heads * size] into [1, tokens, heads, size]."""
        return projected.view(1, len(projected), -1, self.size)

    def turned(self, projected: torch.Tensor, norm: Norm | None) -> torch.Tensor:
        """Norm and rotate [tokens, heads * size]: [heads, tokens, size]."""
        heads = self.cut(projected)
        if norm is not None:
            heads, _ = normed(heads, norm.weight, norm.epsilon)
        return rotated(heads.transpose(1, 2), self.cos, self.sin)[0]

    def turned_again(self, kept: torch.Tensor, norm: Norm | None) -> torch.Tensor:
        """Return what `turned` made, from what is kept: that itself, or where it was normed, what it was made of."""
        return kept if norm is None else self.turned(kept, norm)

    def turned_gradient(self, grad: torch.Tensor, projected: torch.Tensor, norm: Norm | None) -> torch.Tensor:
        """Return the gradient of [tokens, heads * size] for that of what `turned` makes of it."""
        grad = rotated(grad[None], self.cos, self.sin, is_back=True).transpose(1, 2).contiguous()
        if norm is not None:
            heads = self.cut(projected)
            _, inverse = normed(heads, norm.weight, norm.epsilon)
            grad = norm_gradient(grad, heads, norm.weight, inverse)
        return grad.flatten(2)[0]

    def asked(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> Asked:
        """Say what attends to what, for query and key as `turned` leaves them and value [tokens, key heads * size]."""
        return Asked(query, key, self.cut(value)[0].transpose(0, 1), self.spans, self.scaling)


def add_attention(x: torch.Tensor, norm: Norm, heads: Heads, projections: Sequence[Projection]) -> torch.Tensor:
    """Return x + attention(norm(x)).

    Args:
        x: [tokens, hidden]
        norm: Before the projections.
        heads: What lies between the projections.
        projections: Of queries, keys, values, and output.
    """
    scalings, tensors = flatten(projections)
    return AttentionBlock.apply(x, norm, heads, scalings, *tensors)  # type: ignore[no-any-return]


def add_mlp(x: torch.Tensor, norm: Norm, projections: Sequence[Projection]) -> torch.Tensor:
    """Return x + mlp(norm(x)) for x [tokens, hidden] and the projections gate, up and down."""
    scalings, tensors = flatten(projections)
    return MlpBlock.apply(x, norm, scalings, *tensors)  # type: ignore[no-any-return]


class AttentionBlock(torch.autograd.Function):
    """As `add_attention` says."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, norm: Norm, heads: Heads, scalings: tuple[float, ...], *tensors: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute [tokens, hidden]."""
        projections = split(scalings, tensors)
        *inner, last = projections
        parts = _parts(x, norm, projections)
        # Where heads are normed, they are kept as they were before; elsewhere as they are in the end.
        places = [
            None if head_norm else scratch(name, (len(x), len(one.weight)), x.dtype)
            for name, one, head_norm in (("query", inner[0], heads.query_norm), ("key", inner[1], heads.key_norm))
        ]
        (query, key, value), smalls, rstd = parts.normed_outputs(x, norm, inner, [*places, None])
        turned_query, turned_key = heads.turned(query, heads.query_norm), heads.turned(key, heads.key_norm)
        output, *kept = attended(heads.asked(turned_query, turned_key, value))
        flat = output.flatten(1)
        y, small = parts.added_output(flat, last, x)
        ctx.save_for_backward(
            *(x, rstd, query if heads.query_norm else turned_query, key if heads.key_norm else turned_key, value),
            *(flat if last.lora else None, *smalls, small, *tensors, *kept),
        )
        ctx.norm, ctx.heads, ctx.scalings, ctx.parts = norm, heads, scalings, parts
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of x and of every A and B."""
        heads: Heads = ctx.heads
        x, rstd, query, key, value, flat, *saved = ctx.saved_tensors
        smalls, tensors, kept = _pieces(saved, len(ctx.scalings))
        *inner, last = split(ctx.scalings, tensors)
        grad = grad.contiguous()
        grad_flat, of_last = ctx.parts.gradients_of_output(last, flat, smalls[-1], grad)
        asked = heads.asked(heads.turned_again(query, heads.query_norm), heads.turned_again(key, heads.key_norm), value)
        grad_query, grad_key, grad_value = attention_gradients(asked, heads.cut(grad_flat)[0], kept)
        grads = (
            heads.turned_gradient(grad_query, query, heads.query_norm),
            heads.turned_gradient(grad_key, key, heads.key_norm),
            grad_value.transpose(0, 1).flatten(1),
        )
        rest = grad if ctx.needs_input_grad[0] else None
        grad_x, of_inner = ctx.parts.gradients_of_normed(Start(x, ctx.norm, rstd), inner, smalls[:-1], grads, rest)
        return grad_x, None, None, None, *of_inner, *of_last


class MlpBlock(torch.autograd.Function):
    """As `add_mlp` says."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: torch.Tensor, norm: Norm, scalings: tuple[float, ...], *tensors: torch.Tensor | None
    ) -> torch.Tensor:
        """Compute [tokens, hidden]."""
        projections = split(scalings, tensors)
        parts = _parts(x, norm, projections)
        y, gate, up, smalls, rstd = parts.mlp(x, norm, projections)
        ctx.save_for_backward(x, rstd, gate, up, *smalls, *tensors)
        ctx.norm, ctx.scalings, ctx.parts = norm, scalings, parts
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of x and of every A and B."""
        x, rstd, gate, up, *saved = ctx.saved_tensors
        smalls, tensors, _ = _pieces(saved, len(ctx.scalings))
        grad_x, found = ctx.parts.mlp_gradients(
            *(Start(x, ctx.norm, rstd), split(ctx.scalings, tensors), smalls, gate, up),
            *(grad.contiguous(), ctx.needs_input_grad[0]),
        )
        return grad_x, None, None, *found


def _parts(x: torch.Tensor, norm: Norm, projections: Sequence[Projection]) -> KernelParts | TorchParts:
    return kernel_parts_for(x, norm, projections) or TorchParts()


def _pieces(saved: Sequence[Any], projections: int) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
    """Cut into what the adapters made of their inputs, the projections' tensors, and the rest."""
    start, end = projections, projections + projections * PER_PROJECTION
    return saved[:start], saved[start:end], saved[end:]
