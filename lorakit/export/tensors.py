"""The tensors of a model, read one at a time, so that a model larger than the memory can be written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ModelTensors:
    """Tensors by the names that the model's checkpoint gives them, in the order of the checkpoint.

    Attributes:
        shapes: Of each tensor.
        read: From a name to the tensor, which is not kept.
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], torch.Tensor]
