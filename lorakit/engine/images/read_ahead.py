"""Pictures read by background workers while the model computes."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lorakit.engine.images.pictures import Picture

# Threads do: decoding and resizing run outside Python's lock.
_WORKERS = 2
_MOST_WAITING_PATCHES = 32_768  # about 200 MB of Qwen3-VL's patches


class ReadAhead:
    """Reads announced pictures in the background. What waits to be used is bounded; the rest is read on demand.

    Args:
        most_patches: How many may wait.
    """

    def __init__(self, most_patches: int = _MOST_WAITING_PATCHES) -> None:
        self._most_patches = most_patches
        self._waiting: dict[Picture, Future[torch.Tensor]] = {}
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="lorakit-pictures")

    def announce(self, pictures: Iterable[Picture]) -> None:
        """Begin to read pictures that will be wanted soon."""
        for picture in pictures:
            waiting = sum(other.patches for other in self._waiting)
            if picture not in self._waiting and waiting + picture.patches <= self._most_patches:
                self._waiting[picture] = self._pool.submit(picture.read)

    def read(self, picture: Picture) -> torch.Tensor:
        """Return a picture's patches, [patches, values of a patch]; errors are those of reading it here."""
        future = self._waiting.pop(picture, None)
        return picture.read() if future is None else future.result()
