"""What a frozen vision tower makes of pictures, kept for all epochs: in memory, what does not fit there on disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Hashable
from pathlib import Path

import torch

from lorakit.engine.runtime.device import free_bytes

Features = tuple[torch.Tensor, ...]  # [tokens, hidden] of the tower's last layer, then of each deepstack layer

_SHARE_OF_MEMORY = 0.25  # of what is free when the first picture comes
_SHARE_OF_DISK = 0.25


class FeatureCache:
    """Features by picture and kind. Nothing is ever dropped: every epoch wants all of them, and in the same order.

    Args:
        memory_bytes: How much may be kept in memory.
        disk_bytes: How much more may be kept in files, which are gone with the cache.
    """

    def __init__(self, memory_bytes: int, disk_bytes: int) -> None:
        self._memory_bytes = self._memory_room = memory_bytes
        self._disk_room = disk_bytes
        self._kept: dict[Hashable, Features | Path] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def of_this_machine(cls) -> FeatureCache:
        """Return a cache that takes no more than a share of what is free here."""
        disk = shutil.disk_usage(tempfile.gettempdir()).free
        return cls(int(_SHARE_OF_MEMORY * free_bytes(torch.device("cpu"))), int(_SHARE_OF_DISK * disk))

    def room_for(self, wanted_bytes: int) -> int:
        """Return how much of this will be in memory."""
        return min(wanted_bytes, self._memory_bytes)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._kept

    def get(self, key: Hashable, compute: Callable[[], Features]) -> Features:
        """Return the features of a picture, computed only where they are not kept."""
        found = self._kept.get(key)
        if isinstance(found, Path):
            return _read(found)
        if found is None:
            with torch.inference_mode(False):  # a validation may be the first to ask, and training the next
                found = tuple(tensor.cpu() for tensor in compute())
            self._keep(key, found)
        return found

    def _keep(self, key: Hashable, features: Features) -> None:
        size = sum(tensor.nbytes for tensor in features)
        if size <= self._memory_room:
            self._memory_room -= size
            self._kept[key] = features
        elif size <= self._disk_room:
            self._disk_room -= size
            self._write(key, features)

    def _write(self, key: Hashable, features: Features) -> None:
        from safetensors.torch import save_file

        try:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="lorakit-features-")
            file = Path(self._folder.name) / f"{len(self._kept)}.safetensors"
            save_file({str(number): tensor.contiguous() for number, tensor in enumerate(features)}, file)
        except OSError:  # no folder, or no space: computing anew costs time only
            self._disk_room = 0
            return
        self._kept[key] = file


def _read(file: Path) -> Features:
    from safetensors.torch import load_file

    found = load_file(file)
    return tuple(found[str(number)] for number in range(len(found)))
