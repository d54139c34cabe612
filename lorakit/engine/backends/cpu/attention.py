"""Causal attention of packed sequences, each pass in one call of kernels.cpp."""

from __future__ import annotations

from typing import Any

import torch

from lorakit.engine.backends.operands import AttentionInputs

# Up to so many elements of a head's keys attention in bfloat16 is faster here than by PyTorch's products, where those
# have AMX tiles.
_MOST_KEY_ELEMENTS = 40_000


def is_short(inputs: AttentionInputs) -> bool:
    """Whether kernels are faster than products with tiles."""
    longest = max(span.num_keys for span in inputs.spans)
    return longest * int(inputs.query.shape[-1]) <= _MOST_KEY_ELEMENTS


def forward(kernels: Any, inputs: AttentionInputs) -> tuple[torch.Tensor, ...]:
    """Return the output [queries, heads, size], and the logarithm of what each query divides by [heads, queries]."""
    query = inputs.query
    heads, queries, size = query.shape
    output, normaliser = query.new_empty(queries, heads, size), query.new_empty(heads, queries, dtype=torch.float32)
    sinks = None if inputs.limits.sinks is None else inputs.limits.sinks.detach().float().contiguous()
    kernels.attention_forward(
        *(query, inputs.key, inputs.value, sinks, output, normaliser),
        *(*_layout(inputs), inputs.scaling, inputs.limits.soft_cap or 0.0),
    )
    return output, normaliser


def backward(
    kernels: Any, inputs: AttentionInputs, grad: torch.Tensor, normaliser: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the gradients of query, key and value for that of the output, [queries, heads, size], contiguous."""
    query, key, value, prefix_len = inputs.query, inputs.key, inputs.value, inputs.spans[-1].prefix_len
    gradients = inputs.empty_gradients()
    of_prefix = torch.zeros(
        2, len(inputs.spans), len(key), prefix_len, key.shape[-1]
    )  # each span's own, to be added up
    kernels.attention_backward(
        *(query, key, value, grad, normaliser, *gradients, *of_prefix),
        *(*_layout(inputs), inputs.scaling, inputs.limits.soft_cap or 0.0, key.shape[1]),
    )
    for gradient, own in zip(gradients[1:], of_prefix, strict=True):
        gradient[:, :prefix_len] += own.sum(0)
    return gradients


def _layout(inputs: AttentionInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return spans and layout as kernels.cpp reads them."""
    places = [
        number
        for span in inputs.spans
        for number in (
            *(span.queries.start, span.queries.stop - span.queries.start),
            *(span.keys.start, span.keys.stop - span.keys.start),
        )
    ]
    heads, queries, size = inputs.query.shape
    strides = [stride for tensor in (inputs.query, inputs.key, inputs.value) for stride in tensor.stride()[:2]]
    layout = [len(inputs.spans), inputs.spans[-1].prefix_len, heads, len(inputs.key), size, queries, *strides]
    layout += [inputs.limits.window or 0, inputs.limits.chunk or 0]
    return torch.tensor(places), torch.tensor(layout)
