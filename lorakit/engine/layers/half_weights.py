"""A model whose large matrices are held in float16 while it computes in float32.

Half the memory, and on some processors half the time (see `half_products`). bfloat16 numbers, in which most models
are published, become float16 numbers without loss, save those under a 2^14th, which are rounded to a 2^24th.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from lorakit.engine.backends.base import Backend
from lorakit.engine.backends.operands import Projection
from lorakit.engine.ops.lora_linear import project

# Up to here sums of 64 products stay within float16 (half_products.cpp); matrices with all numbers under the other lose
# too many digits.
_LARGEST = 31.0
_LEAST_LARGEST = 2.0**-8


class Half:
    """What has its weight in float16, all else in float32, and is frozen."""

    weight: torch.nn.Parameter
    backend: Backend


class HalfLinear(Half, torch.nn.Linear):
    """A linear layer."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return [..., out] for [..., in]."""
        return project(input, [Projection(self.weight, self.bias)], self.backend)[0]


class HalfEmbedding(Half, torch.nn.Embedding):
    """An embedding of tokens."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return [..., width] for token ids [...]."""
        return super().forward(input).float()


@cache
def half_kinds() -> dict[type, type]:
    """Return what the layers of a model become that hold their weight in float16."""
    from transformers.pytorch_utils import Conv1D

    class HalfConv1D(Half, Conv1D):  # type: ignore[misc]
        """A linear layer of GPT-2, whose weights are [in, out]."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Return [..., out] for [..., in]."""
            return project(x, [Projection(self.weight.T, self.bias)], self.backend)[0]

    return {torch.nn.Linear: HalfLinear, Conv1D: HalfConv1D, torch.nn.Embedding: HalfEmbedding}


def hold_in_half(model: Any, backend: Backend) -> None:
    """Turn the matrices of linear layers and of the tokens' embedding to float16, all else to float32, and freeze all.

    A matrix that float16 cannot hold, or not exactly enough, becomes float32 too.

    Args:
        model: As it was read, in any format.
        backend: Multiplies.
    """
    embedding = model.get_input_embeddings()
    for module in model.modules():
        kind = half_kinds().get(type(module))
        if kind is None or (kind is HalfEmbedding and module is not embedding):
            continue
        weight = module.weight.data
        if weight.dtype is not torch.float16 or kind is HalfEmbedding:  # a tied one may be here already
            largest = weight.abs().max().item() if weight.numel() else 0.0
            if not _LEAST_LARGEST <= largest <= _LARGEST:
                continue
        module.weight.data = weight.half()
        module.__class__ = kind
        vars(module)["backend"] = backend
    halves = {id(module.weight) for module in model.modules() if isinstance(module, Half)}
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and id(tensor) not in halves:
            tensor.data = tensor.data.float()
    model.requires_grad_(False)


def activation_dtype(model: Any) -> torch.dtype:
    """Return the format of what lies between a model's products, which need not be that of its weights."""
    is_half = any(isinstance(module, Half) for module in model.modules())
    return torch.float32 if is_half else model.dtype
