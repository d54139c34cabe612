"""Causal attention of packed sequences on a CPU, as one autograd function.

torch's flash kernel is fast forward on a CPU but slow backward. Here the query heads of a key head are computed
together, queries a tile at a time, so that what causal order forbids is hardly ever computed: by kernels.cpp in one
call, or by plain batched products. With these, short sequences keep their probabilities for the backward pass; all
others compute them anew.

Source for the tiles: Dao et al., 2022, "FlashAttention", arXiv 2205.14135.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from lorakit.engine.backends.cpu.kernels import kernels_for, serves_attention

# Queries computed at once: enough rows for a fast product, and little beyond the diagonal is computed in vain.
_TILE_TOKENS = 128
# The probabilities of longer sequences are computed anew in the backward pass: kept, they grow with the square.
_LONGEST_KEPT_ROW = 256


@dataclass(frozen=True)
class Span:
    """Where one sequence lies in a packed row.

    Attributes:
        asking: Of the queries: those of its last tokens, or of all.
        own: Of keys and values.
        shared: Keys and values at the start of the packed row that come before its own.
    """

    asking: slice
    own: slice
    shared: int = 0

    @property
    def is_kept(self) -> bool:
        """Whether the backward pass finds its probabilities."""
        return len(range(self.asking.start, self.asking.stop)) <= _LONGEST_KEPT_ROW

    def seen(self, packed: torch.Tensor) -> torch.Tensor:
        """Take its keys or values out of the packed row's [heads, tokens, size]: [heads, shared + own, size]."""
        own = packed[:, self.own]
        # contiguous: far faster to multiply by
        return torch.cat([packed[:, : self.shared], own], dim=1) if self.shared else own.contiguous()

    def tiles(self) -> Iterator[tuple[slice, int]]:
        """Yield queries and how many keys the last of them sees, the last queries first."""
        keys = self.shared + self.own.stop - self.own.start
        start, end = self.asking.start, self.asking.stop
        for first in reversed(range(start, end, _TILE_TOKENS)):
            after = min(first + _TILE_TOKENS, end)
            yield slice(first, after), keys - (end - after)


@dataclass(frozen=True)
class Asked:
    """What attends to what.

    Attributes:
        query: [heads, asking, size]
        key: [key heads, tokens, size]
        value: [key heads, tokens, size]
        spans: The sequences; together they ask with every query.
        scaling: Of the products of queries and keys.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    spans: tuple[Span, ...]
    scaling: float

    def layout(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return spans and layout as kernels.cpp reads them."""
        places = [
            (span.asking.start, span.asking.stop - span.asking.start, span.own.start, span.own.stop - span.own.start)
            for span in self.spans
        ]
        heads, asking, size = self.query.shape
        strides = [stride for tensor in (self.query, self.key, self.value) for stride in tensor.stride()[:2]]
        layout = [len(self.spans), self.spans[-1].shared, heads, len(self.key), size, asking, *strides]
        return torch.tensor(places), torch.tensor(layout)

    def kernels(self) -> Any:
        """Return the kernels where they serve, and serve faster than PyTorch's products do."""
        tensors = (self.query, self.key, self.value)
        if any(tensor.stride(-1) != 1 for tensor in tensors):
            return None
        kernels = kernels_for(*(tensor[:0] for tensor in tensors))  # strides of heads and tokens are served
        longest = max(span.shared + span.own.stop - span.own.start for span in self.spans)
        return kernels if kernels and serves_attention(longest * self.query.shape[-1], self.query.dtype) else None


class RowAttention(torch.autograd.Function):
    """Causal attention within each sequence of a packed row, with grouped heads."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        spans: tuple[Span, ...],
        scaling: float,
    ) -> torch.Tensor:
        """Attend.

        Args:
            ctx: Of autograd.
            query: [1, heads, asking, head size]
            key: [1, key heads, tokens, head size]
            value: [1, key heads, tokens, head size]
            spans: The sequences; together they ask with every query.
            scaling: Of the products of queries and keys.

        Returns:
            [1, asking, heads, head size]
        """
        asked = Asked(query[0], key[0], value[0], spans, scaling)
        output, *kept = attended(asked)
        ctx.save_for_backward(asked.query, asked.key, asked.value, *kept)
        ctx.spans, ctx.scaling = spans, scaling
        return output[None]

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of query, key and value."""
        query, key, value, *kept = ctx.saved_tensors
        gradients = attention_gradients(Asked(query, key, value, ctx.spans, ctx.scaling), grad[0], kept)
        return *(gradient[None] for gradient in gradients), None, None


def attended(asked: Asked) -> tuple[torch.Tensor, ...]:
    """Attend: return [asking, heads, size], and what the backward pass needs besides."""
    kernels = asked.kernels()
    return _attend_by_kernels(asked, kernels) if kernels else _attend_by_products(asked)


def attention_gradients(
    asked: Asked, grad: torch.Tensor, kept: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value for that of the output, [asking, heads, size].

    Args:
        asked: As in the forward pass.
        grad: [asking, heads, size]
        kept: What `attended` returned besides the output.
    """
    query, key, value = asked.query, asked.key, asked.value
    gradients = (
        torch.empty_like(query, memory_format=torch.contiguous_format),
        torch.zeros_like(key, memory_format=torch.contiguous_format),
        # laid out as the projection's output, whose gradient it becomes
        value.new_zeros(value.shape[1], value.shape[0], value.shape[2]).transpose(0, 1),
    )
    if kernels := asked.kernels():
        _fill_by_kernels(gradients, grad.contiguous(), kept[0], asked, kernels)
    else:
        _fill_by_products(gradients, grad.transpose(0, 1), kept, asked)
    return gradients


def _attend_by_kernels(asked: Asked, kernels: Any) -> tuple[torch.Tensor, ...]:
    """Return the output [asking, heads, size], and the logarithm of what each query divides by [heads, asking]."""
    query = asked.query
    heads, asking, size = query.shape
    output, normaliser = query.new_empty(asking, heads, size), query.new_empty(heads, asking, dtype=torch.float32)
    kernels.attention_forward(query, asked.key, asked.value, output, normaliser, *asked.layout(), asked.scaling)
    return output, normaliser


def _fill_by_kernels(
    gradients: tuple[torch.Tensor, ...], grad: torch.Tensor, normaliser: torch.Tensor, asked: Asked, kernels: Any
) -> None:
    """Fill the gradients of query, key and value for that of the output, [asking, heads, size]."""
    query, key, value, shared = asked.query, asked.key, asked.value, asked.spans[-1].shared
    of_shared = torch.zeros(2, len(asked.spans), len(key), shared, key.shape[-1])  # each span's own, to be added up
    kernels.attention_backward(
        *(query, key, value, grad, normaliser, *gradients, *of_shared),
        *(*asked.layout(), asked.scaling, key.shape[1]),
    )
    for gradient, own in zip(gradients[1:], of_shared, strict=True):
        gradient[:, :shared] += own.sum(0)


def _attend_by_products(asked: Asked) -> tuple[torch.Tensor, ...]:
    """Return the output [asking, heads, size], and the probabilities that are kept, tile by tile."""
    heads, asking, size = asked.query.shape
    output, kept = asked.query.new_empty(asking, heads, size), []
    for span in asked.spans:
        keys, values = span.seen(asked.key), span.seen(asked.value)
        for part, seen in span.tiles():
            queries = _grouped(asked.query[:, part], len(keys))
            probabilities = _probabilities(queries, keys[:, :seen], part, asked.scaling)
            attended = torch.bmm(probabilities, values[:, :seen])  # [key heads, repeats * tile, size]
            output[part].transpose(0, 1).copy_(attended.view(heads, -1, size))
            if span.is_kept:
                kept.append(probabilities)
    return output, *kept


def _fill_by_products(
    gradients: tuple[torch.Tensor, ...], grad: torch.Tensor, kept: Sequence[torch.Tensor], asked: Asked
) -> None:
    """Fill the gradients of query, key and value for that of the output, [heads, asking, size]."""
    grad_query, grad_key, grad_value = gradients
    remembered = iter(kept)
    for span in asked.spans:
        keys, values = span.seen(asked.key), span.seen(asked.value)
        grad_keys, grad_values = torch.empty_like(keys), torch.empty_like(values)
        for number, (part, seen) in enumerate(span.tiles()):
            queries, grads = _grouped(asked.query[:, part], len(keys)), _grouped(grad[:, part], len(keys))
            if span.is_kept:
                probabilities = next(remembered)
            else:
                probabilities = _probabilities(queries, keys[:, :seen], part, asked.scaling)
            grad_probabilities = torch.bmm(grads, values[:, :seen].transpose(1, 2))
            grad_scores = _scores_gradient(grad_probabilities, probabilities, asked.scaling)
            grad_query[:, part] = torch.bmm(grad_scores, keys[:, :seen]).view(len(grad), -1, grad.shape[-1])
            # The first tile sees all keys, so there is nothing to add to yet.
            beta = 1 if number else 0
            grad_values[:, :seen].baddbmm_(probabilities.transpose(1, 2), grads, beta=beta)
            grad_keys[:, :seen].baddbmm_(grad_scores.transpose(1, 2), queries, beta=beta)
        if span.asking.start < span.asking.stop:
            _give_back(grad_key, grad_keys, span)
            _give_back(grad_value, grad_values, span)


def _grouped(tile: torch.Tensor, key_heads: int) -> torch.Tensor:
    """Put the query heads of a key head below each other: [heads, tile, size] to [key heads, repeats * tile, size]."""
    return tile.reshape(key_heads, -1, tile.shape[-1])


def _give_back(packed: torch.Tensor, seen: torch.Tensor, span: Span) -> None:
    """Undo `Span.seen` for gradients: what is shared adds up."""
    packed[:, : span.shared] += seen[:, : span.shared]
    packed[:, span.own] += seen[:, span.shared :]


def _probabilities(queries: torch.Tensor, keys: torch.Tensor, part: slice, scaling: float) -> torch.Tensor:
    """Return what queries [key heads, repeats * tile, size] pay to keys [key heads, seen, size].

    The last query of the tile sees all keys, each one before it a key less.
    """
    tile, seen = part.stop - part.start, keys.shape[1]
    scores = torch.bmm(queries, keys.transpose(1, 2))  # [key heads, repeats * tile, seen]
    on_diagonal = scores.mul_(scaling).view(len(scores), -1, tile, seen)[..., -tile:]
    on_diagonal.add_(_future(tile, scores.dtype, scores.device))
    return torch.softmax(scores, dim=-1)


def _scores_gradient(grad: torch.Tensor, probabilities: torch.Tensor, scaling: float) -> torch.Tensor:
    """Turn the gradient of the probabilities into that of the products of queries and keys."""
    gradient = torch.ops.aten._softmax_backward_data(grad, probabilities, -1, probabilities.dtype)
    return gradient.mul_(scaling)


@lru_cache(maxsize=2 * _TILE_TOKENS)
def _future(tokens: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return minus infinity where a key lies in the future, else 0: [tokens, tokens]. Adding is faster than filling."""
    return torch.full((tokens, tokens), float("-inf"), dtype=dtype, device=device).triu_(1)
