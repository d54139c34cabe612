"""Memory for what a forward pass forgets at once.

Taken from the heap between tensors that stay until the backward pass, it would leave gaps there that nothing fits into:
a sixth of all that a training step takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

_ROOMS: dict[tuple[str, torch.dtype], torch.Tensor] = {}


def scratch(name: str, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor of the CPU with any values in it; the next of the same name takes its place."""
    elements = math.prod(shape)
    room = _ROOMS.get((name, dtype))
    if room is None or len(room) < elements:
        room = _ROOMS[name, dtype] = torch.empty(elements, dtype=dtype)
    return room[:elements].view(*shape)
