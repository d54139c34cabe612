"""Pictures on their way into a vision-language model, and the features of a frozen vision tower, computed once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from lorakit.engine.device import free_bytes

_SHARE_OF_MEMORY = 0.25  # of what is free when the first picture comes


@dataclass(frozen=True)
class Picture:
    """A picture as the model will see it.

    Attributes:
        path: Its file.
        patch_rows: Of the resized picture.
        patch_columns: Of the resized picture.
        merge: How many patches along each side become one token.
        read: Returns its patches, [patch_rows * patch_columns, values of a patch].
    """

    path: str
    patch_rows: int
    patch_columns: int
    merge: int
    read: Callable[[], torch.Tensor] = field(compare=False, repr=False)

    @property
    def token_rows(self) -> int:
        """Height in tokens."""
        return self.patch_rows // self.merge

    @property
    def token_columns(self) -> int:
        """Width in tokens."""
        return self.patch_columns // self.merge

    @property
    def tokens(self) -> int:
        """How many tokens of the sequence it takes."""
        return self.token_rows * self.token_columns


@dataclass(frozen=True)
class _Features:
    """What the vision tower makes of one picture: [tokens, hidden], and the same for each deepstack layer."""

    last: torch.Tensor
    deepstack: tuple[torch.Tensor, ...]

    @property
    def size_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in (self.last, *self.deepstack))


class FeatureCache:
    """Features by picture, the least recently used ones dropped first.

    Args:
        most_bytes: How much may be kept.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Picture, _Features] = OrderedDict()
        self._bytes = 0

    def get(self, picture: Picture, compute: Callable[[Picture], _Features]) -> _Features:
        """Return the features of a picture, computed only where they are not kept."""
        found = self._kept.get(picture)
        if found is None:
            found = compute(picture)
            self._kept[picture] = found
            self._bytes += found.size_bytes
        self._kept.move_to_end(picture)
        while self._bytes > self._most_bytes and self._kept:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.size_bytes
        return found


_CACHES: WeakKeyDictionary[torch.nn.Module, FeatureCache] = WeakKeyDictionary()


def pixel_inputs(pictures: Sequence[Picture], device: torch.device) -> dict[str, torch.Tensor]:
    """Return what the model's forward pass takes for pictures: all patches, and each picture's grid."""
    grids = [[1, picture.patch_rows, picture.patch_columns] for picture in pictures]
    return {
        "pixel_values": torch.cat([picture.read() for picture in pictures]).to(device),  # [patches, values]
        "image_grid_thw": torch.tensor(grids, device=device),  # [pictures, 3]
    }


def picture_inputs(base: Any, pictures: Sequence[Picture]) -> dict[str, Any]:
    """Return the same, or, where the vision tower is frozen, its features: computed without autograd and kept.

    Args:
        base: A vision-language model of transformers, out of any wrapper.
        pictures: In the order in which they stand in the row.
    """
    if not pictures:
        return {}
    tower = base.model.visual
    # An adapter on the tower can be switched off, so that its features are not always the same.
    # A sharded tower has its whole weights only in the model's forward pass.
    is_fixed = not any(
        parameter.requires_grad or ".lora_" in name or hasattr(parameter, "full_tensor")
        for name, parameter in tower.named_parameters()
    )
    if not is_fixed:
        return pixel_inputs(pictures, base.device)
    cache = _CACHES.get(tower)
    if cache is None:
        cache = _CACHES[tower] = FeatureCache(int(_SHARE_OF_MEMORY * free_bytes(base.device)))
    features = [cache.get(picture, lambda wanted: _features(base, wanted)) for picture in pictures]
    layers = zip(*(found.deepstack for found in features), strict=True)
    outputs = SimpleNamespace(
        pooler_output=[found.last for found in features], deepstack_features=[list(layer) for layer in layers]
    )
    return {"mm_encoder_outputs": {"image": outputs}}


def _features(base: Any, picture: Picture) -> _Features:
    """Compute one picture by itself, so that the result does not depend on its company to the last bit."""
    was_training = base.model.visual.training
    base.model.visual.eval()
    with torch.no_grad():
        found = base.model.get_image_features(**pixel_inputs([picture], base.device), return_dict=True)
    base.model.visual.train(was_training)
    return _Features(found.pooler_output[0], tuple(layer[0] for layer in found.deepstack_features))
