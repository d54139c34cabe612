"""Pictures on their way into a vision-language model.

Where the vision tower is frozen, each picture goes through it once: its features are kept. With an adapted projector
those before the projector are kept, and only the projector computes in every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any
from weakref import WeakKeyDictionary

import torch

from lorakit.engine.images.features import FeatureCache, Features
from lorakit.engine.images.read_ahead import ReadAhead


@dataclass(frozen=True)
class Picture:
    """A picture as the model will see it.

    Attributes:
        path: Its file.
        content: A hash of the file.
        patch_rows: Of the resized picture.
        patch_columns: Of the resized picture.
        merge: How many patches along each side become one token.
        read: Returns its patches, [patch_rows * patch_columns, values of a patch]; raises where the file has changed.
        check: Raises where the file has changed. Costs a look at its date and size only.
    """

    path: str
    content: str
    patch_rows: int
    patch_columns: int
    merge: int
    read: Callable[[], torch.Tensor] = field(compare=False, repr=False)
    check: Callable[[], None] = field(compare=False, repr=False, default=lambda: None)

    @property
    def patches(self) -> int:
        """How many there are."""
        return self.patch_rows * self.patch_columns

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
class _Store:
    """What is known of the pictures that one vision tower sees."""

    features: FeatureCache
    read_ahead: ReadAhead


_STORES: WeakKeyDictionary[torch.nn.Module, _Store] = WeakKeyDictionary()


def announce_pictures(base: Any, pictures: Iterable[Picture]) -> None:
    """Let background workers read pictures that the model will soon be shown, where their features are not kept."""
    store, kind = _store(base.model.visual), _kind(base.model.visual)
    store.read_ahead.announce(picture for picture in pictures if (picture, kind) not in store.features)


def picture_inputs(base: Any, pictures: Sequence[Picture]) -> dict[str, Any]:
    """Return what the model's forward pass takes for pictures: their features, or, from an adapted tower, their pixels.

    Args:
        base: A vision-language model of transformers, out of any wrapper.
        pictures: In the order in which they stand in the row.
    """
    if not pictures:
        return {}
    tower = base.model.visual
    store, kind = _store(tower), _kind(tower)
    if kind is None:
        return pixel_inputs(pictures, base.device, store.read_ahead.read)
    read = store.read_ahead.read
    for picture in pictures:  # whose features may be kept, so that nobody reads its file again
        picture.check()
    kept = [store.features.get((picture, kind), partial(_features, base, picture, kind, read)) for picture in pictures]
    layers = [[features[layer].to(base.device) for features in kept] for layer in range(len(kept[0]))]
    if kind == _BEFORE_PROJECTOR:
        tokens = [picture.tokens for picture in pictures]
        layers = [
            list(projector(torch.cat(parts)).split(tokens))
            for projector, parts in zip(_projectors(tower), layers, strict=True)
        ]
    outputs = SimpleNamespace(pooler_output=layers[0], deepstack_features=layers[1:])
    return {"mm_encoder_outputs": {"image": outputs}}


def pixel_inputs(
    pictures: Sequence[Picture], device: torch.device, read: Callable[[Picture], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return what every forward pass of the plain model takes: all patches, and each picture's grid."""
    patches = torch.cat([read(picture) for picture in pictures]).to(device)  # [patches, values]
    return {"pixel_values": patches, "image_grid_thw": grids(pictures, device)}


def grids(pictures: Sequence[Picture], device: torch.device) -> torch.Tensor:
    """Return the patches of each picture in time, height and width, [pictures, 3]."""
    return torch.tensor([[1, picture.patch_rows, picture.patch_columns] for picture in pictures], device=device)


def kept_feature_bytes(base: Any, pictures: Iterable[Picture]) -> int:
    """Return how much memory the features of these pictures will take."""
    tokens = sum(picture.tokens for picture in set(pictures))
    tower = getattr(getattr(base, "model", None), "visual", None) if tokens else None
    kind = _kind(tower) if tower is not None else None
    if tower is None or kind is None:
        return 0
    settings = base.config.vision_config
    merged = settings.hidden_size * settings.spatial_merge_size**2
    width = merged if kind == _BEFORE_PROJECTOR else settings.out_hidden_size
    return _store(tower).features.room_for(tokens * len(_projectors(tower)) * width * tower.dtype.itemsize)


_AFTER_PROJECTOR, _BEFORE_PROJECTOR = "after", "before"


def _store(tower: torch.nn.Module) -> _Store:
    if tower not in _STORES:
        _STORES[tower] = _Store(FeatureCache.of_this_machine(), ReadAhead())
    return _STORES[tower]


def _kind(tower: torch.nn.Module) -> str | None:
    """Tell which of a tower's features are always the same; None where none are.

    An adapter can be switched off, so it need not be trained to make a difference. A sharded tower has its whole
    weights only in the model's forward pass.
    """
    in_projectors = {id(parameter) for projector in _projectors(tower) for parameter in projector.parameters()}
    varying = [
        parameter
        for name, parameter in tower.named_parameters()
        if parameter.requires_grad or ".lora_" in name or hasattr(parameter, "full_tensor")
    ]
    if not varying:
        return _AFTER_PROJECTOR
    is_projector_only = all(id(p) in in_projectors and not hasattr(p, "full_tensor") for p in varying)
    return _BEFORE_PROJECTOR if is_projector_only else None


def _projectors(tower: Any) -> list[torch.nn.Module]:
    """Return the projector, and those of the deepstack layers in their order, where there are any."""
    return [tower.merger, *getattr(tower, "deepstack_merger_list", ())]


def _features(base: Any, picture: Picture, kind: str, read: Callable[[Picture], torch.Tensor]) -> Features:
    """Compute one picture by itself, so that the result does not depend on its company to the last bit."""
    tower = base.model.visual
    given: dict[int, torch.Tensor] = {}  # what each projector was given, by its number

    def keep_input(number: int, arguments: tuple[torch.Tensor, ...]) -> None:
        given[number] = arguments[0]

    hooks = [
        projector.register_forward_pre_hook(lambda _, arguments, number=number: keep_input(number, arguments))
        for number, projector in enumerate(_projectors(tower))
    ]
    was_training = tower.training
    tower.eval()
    try:
        with torch.no_grad():
            found = base.model.get_image_features(**pixel_inputs([picture], base.device, read), return_dict=True)
    finally:
        tower.train(was_training)
        for hook in hooks:
            hook.remove()
    if kind == _BEFORE_PROJECTOR:
        return tuple(_row_by_row(tower, picture, given[number]) for number in range(len(given)))
    return (found.pooler_output[0], *(layer[0] for layer in getattr(found, "deepstack_features", None) or ()))


def _row_by_row(tower: Any, picture: Picture, patches: torch.Tensor) -> torch.Tensor:
    """Return patches [patches, hidden] in the order of their tokens; Qwen2.5-VL's tower has them window by window."""
    if not hasattr(tower, "window_size"):
        return patches
    side = tower.window_size // tower.patch_size // picture.merge  # of a window, in tokens
    rows = torch.arange(picture.token_rows, device=patches.device)[:, None] // side
    columns = torch.arange(picture.token_columns, device=patches.device) // side
    window = (rows * picture.token_columns + columns).flatten()  # of each token, [tokens]
    tokens = patches.view(picture.tokens, -1, patches.shape[-1])  # [tokens, patches of a token, hidden]
    return tokens[torch.argsort(torch.argsort(window, stable=True))].flatten(0, 1)
