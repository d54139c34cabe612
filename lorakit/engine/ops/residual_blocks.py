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

from lorakit.engine.backends.base import Backend
from lorakit.engine.backends.operands import (
    PER_PROJECTION,
    UNLIMITED,
    AttentionInputs,
    Limits,
    MlpSaved,
    Norm,
    NormedInput,
    Projection,
    flatten,
    split,
)
from lorakit.engine.layout import Span


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
        limits: What is done to scores besides.
    """

    size: int
    scaling: float
    spans: tuple[Span, ...]
    cos: torch.Tensor
    sin: torch.Tensor
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    limits: Limits = UNLIMITED

    def split(self, projected: torch.Tensor) -> torch.Tensor:
        """View [tokens, heads * size] as [1, tokens, heads, size]."""
        return projected.view(1, len(projected), -1, self.size)

    def rotate(self, projected: torch.Tensor, norm: Norm | None, backend: Backend) -> torch.Tensor:
        """Norm and rotate [tokens, heads * size]: [heads, tokens, size]."""
        heads = self.split(projected)
        if norm is not None:
            heads, _ = backend.rms_norm(heads, norm.weight, norm.epsilon)
        return backend.rope(heads.transpose(1, 2), self.cos, self.sin)[0]

    def rotate_backward(
        self, grad: torch.Tensor, projected: torch.Tensor, norm: Norm | None, backend: Backend
    ) -> torch.Tensor:
        """Return the gradient of [tokens, heads * size] for that of what `rotate` makes of it."""
        grad = backend.rope(grad[None], self.cos, self.sin, is_backward=True).transpose(1, 2).contiguous()
        if norm is not None:
            heads = self.split(projected)
            _, rstd = backend.rms_norm(heads, norm.weight, norm.epsilon)
            grad = backend.rms_norm_backward(grad, heads, norm.weight, rstd)
        return grad.flatten(2)[0]

    def inputs(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> AttentionInputs:
        """Say what attends to what, for query and key as `rotate` leaves them and value [tokens, key heads * size]."""
        heads = self.split(value)[0].transpose(0, 1)
        return AttentionInputs(query, key, heads, self.spans, self.scaling, self.limits)


def add_attention(
    x: torch.Tensor, norm: Norm, heads: Heads, projections: Sequence[Projection], backend: Backend
) -> torch.Tensor:
    """Return x + attention(norm(x)).

    Args:
        x: [tokens, hidden]
        norm: Before the projections.
        heads: What lies between the projections.
        projections: Of queries, keys, values, and output.
        backend: Which computes.
    """
    scalings, tensors = flatten(projections)
    return AttentionBlock.apply(x, norm, heads, backend, scalings, *tensors)  # type: ignore[no-any-return]


def add_mlp(x: torch.Tensor, norm: Norm, projections: Sequence[Projection], backend: Backend) -> torch.Tensor:
    """Return x + down(silu(gate(norm(x))) up(norm(x))).

    Args:
        x: [tokens, hidden]
        norm: Before the projections.
        projections: Gate, up, and down.
        backend: Which computes.
    """
    scalings, tensors = flatten(projections)
    return MlpBlock.apply(x, norm, backend, scalings, *tensors)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Saved:
    """What a block's backward pass needs beside its own tensors, as autograd keeps it: one flat list."""

    smalls: Sequence[Any]
    projections: Sequence[Projection]
    kept: Sequence[Any]

    @classmethod
    def of(cls, saved: Sequence[Any], scalings: Sequence[float]) -> _Saved:
        """Cut into what the adapters made of their inputs, the projections' tensors, and the rest."""
        start = len(scalings)
        end = start + start * PER_PROJECTION
        return cls(saved[:start], split(scalings, saved[start:end]), saved[end:])


class AttentionBlock(torch.autograd.Function):
    """As `add_attention` says."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        norm: Norm,
        heads: Heads,
        backend: Backend,
        scalings: tuple[float, ...],
        *tensors: torch.Tensor | None,
    ) -> torch.Tensor:
        """Compute [tokens, hidden]."""
        *inner, last = split(scalings, tensors)
        # Where heads are normed, they are kept as they were before; elsewhere as they are in the end.
        outs = [
            None if head_norm else backend.workspace.take(name, (len(x), len(one.weight)), x)
            for name, one, head_norm in (("query", inner[0], heads.query_norm), ("key", inner[1], heads.key_norm))
        ]
        (query, key, value), smalls, rstd = backend.norm_linears(x, norm, inner, [*outs, None])
        rotated_query = heads.rotate(query, heads.query_norm, backend)
        rotated_key = heads.rotate(key, heads.key_norm, backend)
        output, *kept = backend.attention(heads.inputs(rotated_query, rotated_key, value))
        flat = output.flatten(1)
        y, small = backend.add_linear(flat, last, x)
        ctx.save_for_backward(
            *(x, rstd, query if heads.query_norm else rotated_query, key if heads.key_norm else rotated_key, value),
            *(flat if last.lora else None, *smalls, small, *tensors, *kept),
        )
        ctx.norm, ctx.heads, ctx.scalings, ctx.backend = norm, heads, scalings, backend
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of x and of every A and B."""
        heads: Heads = ctx.heads
        backend: Backend = ctx.backend
        x, rstd, query, key, value, flat, *rest = ctx.saved_tensors
        saved = _Saved.of(rest, ctx.scalings)
        *inner, last = saved.projections
        grad = grad.contiguous()
        grad_flat, of_last = backend.add_linear_backward(last, flat, saved.smalls[-1], grad)
        rotated_query = heads.rotate(query, heads.query_norm, backend) if heads.query_norm else query
        rotated_key = heads.rotate(key, heads.key_norm, backend) if heads.key_norm else key
        grad_query, grad_key, grad_value = backend.attention_backward(
            heads.inputs(rotated_query, rotated_key, value), heads.split(grad_flat)[0], saved.kept
        )
        grads = (
            heads.rotate_backward(grad_query, query, heads.query_norm, backend),
            heads.rotate_backward(grad_key, key, heads.key_norm, backend),
            grad_value.transpose(0, 1).flatten(1),
        )
        residual_grad = grad if ctx.needs_input_grad[0] else None
        start = NormedInput(x, ctx.norm, rstd)
        grad_x, of_inner = backend.norm_linears_backward(start, inner, saved.smalls[:-1], grads, residual_grad)
        return grad_x, None, None, None, None, *of_inner, *of_last


class MlpBlock(torch.autograd.Function):
    """As `add_mlp` says."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x: torch.Tensor,
        norm: Norm,
        backend: Backend,
        scalings: tuple[float, ...],
        *tensors: torch.Tensor | None,
    ) -> torch.Tensor:
        """Compute [tokens, hidden]."""
        y, gate, up, smalls, rstd = backend.mlp(x, norm, split(scalings, tensors))
        ctx.save_for_backward(x, rstd, gate, up, *smalls, *tensors)
        ctx.norm, ctx.scalings, ctx.backend = norm, scalings, backend
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of x and of every A and B."""
        x, rstd, gate, up, *rest = ctx.saved_tensors
        saved = _Saved.of(rest, ctx.scalings)
        mlp = MlpSaved(NormedInput(x, ctx.norm, rstd), saved.projections, saved.smalls, gate, up)
        grad_x, found = ctx.backend.mlp_backward(mlp, grad.contiguous(), ctx.needs_input_grad[0])
        return grad_x, None, None, None, *found
