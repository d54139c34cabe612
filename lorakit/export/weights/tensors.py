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
        widened: Names of those that files hold in fewer bits than any format that is written; they are read in float32.
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], torch.Tensor]
    widened: frozenset[str] = frozenset()
