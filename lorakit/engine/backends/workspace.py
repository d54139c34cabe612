"""Memory for what a forward pass forgets at once.

Taken from the heap between tensors that stay until the backward pass, it would leave gaps there that nothing fits into:
a sixth of all that a training step takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch


class Workspace:
    """The buffers of one model's backend, by name."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype, torch.device], torch.Tensor] = {}

    def take(self, name: str, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
        """Return a tensor with any values in it; the next of the same name takes its place.

        Args:
            name: Of the buffer.
            shape: Of the tensor.
            like: Has its format, and lies where it is to lie.
        """
        elements, key = math.prod(shape), (name, like.dtype, like.device)
        buffer = self._buffers.get(key)
        if buffer is None or len(buffer) < elements:
            with torch.inference_mode(False):  # a validation may be the first to ask, and training the next
                buffer = self._buffers[key] = like.new_empty(elements)
        return buffer[:elements].view(*shape)
