"""Causal attention of packed sequences by plain batched products, a tile of queries at a time with what it sees.

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
            tile = _Tile(part, visible, inputs)
            probabilities, _ = tile.probabilities(_grouped(inputs.query[:, part], len(keys)), keys[:, tile.seen])
            attended = torch.bmm(probabilities, values[:, tile.seen])  # [key heads, repeats * tile, size]
            output[part].transpose(0, 1).copy_(attended.view(heads, -1, size))
            if inputs.keeps(span):
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
        grad_keys, grad_values = torch.zeros_like(keys), torch.zeros_like(values)
        for part, visible in span.tiles():
            tile = _Tile(part, visible, inputs)
            queries, grads = _grouped(inputs.query[:, part], len(keys)), _grouped(grad[:, part], len(keys))
            slopes = None
            if inputs.keeps(span):
                probabilities = next(remembered)
            else:
                probabilities, slopes = tile.probabilities(queries, keys[:, tile.seen])
            grad_probabilities = torch.bmm(grads, values[:, tile.seen].transpose(1, 2))
            grad_scores = _scores_gradient(grad_probabilities, probabilities, inputs.scaling)
            if slopes is not None:
                grad_scores *= slopes
            grad_query[:, part] = torch.bmm(grad_scores, keys[:, tile.seen]).view(len(grad), -1, grad.shape[-1])
            grad_values[:, tile.seen].baddbmm_(probabilities.transpose(1, 2), grads)
            grad_keys[:, tile.seen].baddbmm_(grad_scores.transpose(1, 2), queries)
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


class _Tile:
    """Some queries, and the keys that any of them sees."""

    def __init__(self, part: slice, visible: int, inputs: AttentionInputs) -> None:
        self._rows, self._scaling, self._limits = part.stop - part.start, inputs.scaling, inputs.limits
        self._place = visible - self._rows  # of the first query among the keys
        self.seen = slice(inputs.limits.first_seen(self._place), visible)

    def probabilities(self, queries: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what queries pay to keys [key heads, repeats * tile, seen], and by how much bent scores grow there.

        Args:
            queries: [key heads, repeats * tile, size]
            keys: [key heads, seen, size]
        """
        scores, slopes, cap = torch.bmm(queries, keys.transpose(1, 2)).mul_(self._scaling), None, self._limits.soft_cap
        if cap is not None:
            bent = scores.div_(cap).tanh_()
            slopes, scores = 1 - bent.square(), bent * cap
        by_row = scores.view(len(scores), -1, self._rows, scores.shape[-1])  # [key heads, repeats, tile, seen]
        if self._limits.hides(self.seen.stop):
            by_row.masked_fill_(self._hidden(scores.device), float("-inf"))
        else:
            by_row[..., -self._rows :].add_(_future(self._rows, scores.dtype, scores.device))
        if self._limits.sinks is None:
            return torch.softmax(scores, dim=-1), slopes
        sinks = self._limits.sinks.to(scores).view(len(scores), -1, 1, 1).expand(*by_row.shape[:3], 1)
        shares = torch.softmax(torch.cat([by_row, sinks], dim=-1), dim=-1)[..., :-1]
        return shares.reshape(scores.shape), slopes

    def _hidden(self, device: torch.device) -> torch.Tensor:
        asked = torch.arange(self._place, self.seen.stop, device=device)[:, None]
        return ~self._limits.sees(asked, torch.arange(self.seen.start, self.seen.stop, device=device))


def _scores_gradient(grad: torch.Tensor, probabilities: torch.Tensor, scaling: float) -> torch.Tensor:
    """Turn the gradient of the probabilities into that of the products of queries and keys."""
    gradient = torch.ops.aten._softmax_backward_data(grad, probabilities, -1, probabilities.dtype)
    return gradient.mul_(scaling)


@lru_cache(maxsize=2 * TILE_TOKENS)
def _future(tokens: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return minus infinity where a key lies in the future, else 0: [tokens, tokens]. Adding is faster than filling."""
    return torch.full((tokens, tokens), float("-inf"), dtype=dtype, device=device).triu_(1)
