"""Causal attention of packed sequences by plain batched products, a tile of queries at a time.

torch's flash kernel is fast forward on a CPU but slow backward. Here the query heads of a key head are computed
together, so that what causal order forbids is hardly ever computed. Short sequences keep their probabilities for the
backward pass; all others compute them anew.

Source for the tiles: Dao et al., 2022, "FlashAttention", arXiv 2205.14135.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from lorakit.engine.backends.operands import AttentionInputs
from lorakit.engine.layout import TILE_TOKENS, Span


def attend(inputs: AttentionInputs) -> tuple[torch.Tensor, ...]:
    """Return the output [queries, heads, size], and the probabilities that are kept, tile by tile."""
    heads, queries, size = inputs.query.shape
    output, kept = inputs.query.new_empty(queries, heads, size), []
    for span in inputs.spans:
        keys, values = span.visible(inputs.key), span.visible(inputs.value)
        for part, visible in span.tiles():
            probabilities = _probabilities(
                _grouped(inputs.query[:, part], len(keys)), keys[:, :visible], part, inputs.scaling
            )
            attended = torch.bmm(probabilities, values[:, :visible])  # [key heads, repeats * tile, size]
            output[part].transpose(0, 1).copy_(attended.view(heads, -1, size))
            if span.is_kept:
                kept.append(probabilities)
    return output, *kept


def fill_gradients(
    gradients: tuple[torch.Tensor, ...], grad: torch.Tensor, kept: Sequence[torch.Tensor], inputs: AttentionInputs
) -> None:
    """Fill the gradients of query, key and value for that of the output, [heads, queries, size]."""
    grad_query, grad_key, grad_value = gradients
    remembered = iter(kept)
    for span in inputs.spans:
        keys, values = span.visible(inputs.key), span.visible(inputs.value)
        grad_keys, grad_values = torch.empty_like(keys), torch.empty_like(values)
        for number, (part, visible) in enumerate(span.tiles()):
            queries, grads = _grouped(inputs.query[:, part], len(keys)), _grouped(grad[:, part], len(keys))
            if span.is_kept:
                probabilities = next(remembered)
            else:
                probabilities = _probabilities(queries, keys[:, :visible], part, inputs.scaling)
            grad_probabilities = torch.bmm(grads, values[:, :visible].transpose(1, 2))
            grad_scores = _scores_gradient(grad_probabilities, probabilities, inputs.scaling)
            grad_query[:, part] = torch.bmm(grad_scores, keys[:, :visible]).view(len(grad), -1, grad.shape[-1])
            # The first tile sees all keys, so there is nothing to add to yet.
            beta = 1 if number else 0
            grad_values[:, :visible].baddbmm_(probabilities.transpose(1, 2), grads, beta=beta)
            grad_keys[:, :visible].baddbmm_(grad_scores.transpose(1, 2), queries, beta=beta)
        if span.queries.start < span.queries.stop:
            _give_back(grad_key, grad_keys, span)
            _give_back(grad_value, grad_values, span)


def _grouped(tile: torch.Tensor, key_heads: int) -> torch.Tensor:
    """Put the query heads of a key head below each other: [heads, tile, size] to [key heads, repeats * tile, size]."""
    return tile.reshape(key_heads, -1, tile.shape[-1])


def _give_back(packed: torch.Tensor, visible: torch.Tensor, span: Span) -> None:
    """Undo `Span.visible` for gradients: those of the prefix add up."""
    packed[:, : span.prefix_len] += visible[:, : span.prefix_len]
    packed[:, span.keys] += visible[:, span.prefix_len :]


def _probabilities(queries: torch.Tensor, keys: torch.Tensor, part: slice, scaling: float) -> torch.Tensor:
    """Return what queries [key heads, repeats * tile, size] pay to keys [key heads, visible, size].

    The last query of the tile sees all keys, each one before it a key less.
    """
    tile, visible = part.stop - part.start, keys.shape[1]
    scores = torch.bmm(queries, keys.transpose(1, 2))  # [key heads, repeats * tile, visible]
    on_diagonal = scores.mul_(scaling).view(len(scores), -1, tile, visible)[..., -tile:]
    on_diagonal.add_(_future(tile, scores.dtype, scores.device))
    return torch.softmax(scores, dim=-1)


def _scores_gradient(grad: torch.Tensor, probabilities: torch.Tensor, scaling: float) -> torch.Tensor:
    """Turn the gradient of the probabilities into that of the products of queries and keys."""
    gradient = torch.ops.aten._softmax_backward_data(grad, probabilities, -1, probabilities.dtype)
    return gradient.mul_(scaling)


@lru_cache(maxsize=2 * TILE_TOKENS)
def _future(tokens: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return minus infinity where a key lies in the future, else 0: [tokens, tokens]. Adding is faster than filling."""
    return torch.full((tokens, tokens), float("-inf"), dtype=dtype, device=device).triu_(1)
