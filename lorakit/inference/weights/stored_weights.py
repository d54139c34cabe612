"""Weights read by the decoder from the model's files, where these hold the same numbers in half the bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from lorakit.errors import ModelError
from lorakit.model_config import ModelSource, weight_files

if TYPE_CHECKING:
    from lorakit.engine import Held


def stored_weights(model: Any, source: ModelSource) -> Callable[[str, torch.Tensor], Held]:
    """Return what gives a float32 matrix as the bfloat16 numbers that it was read from, mapped from its file.

    Only where every number is the same; otherwise, and in other formats, the matrix itself.

    Args:
        model: With or without PEFT's wrapper.
        source: Where it was read from.
    """
    from lorakit.engine import base_model, held_as_is

    named = base_model(model).named_parameters()
    names = {parameter.data_ptr(): name.replace(".base_layer", "") for name, parameter in named}
    files = _Files(source)

    def hold(place: str, weight: torch.Tensor) -> Held:
        stored = files.read(names.get(weight.data_ptr(), "")) if weight.dtype is torch.float32 else None
        if stored is None or stored.dtype is not torch.bfloat16 or stored.shape != weight.shape:
            held = held_as_is(weight)
        else:
            held = held_as_is(stored if torch.equal(stored.float(), weight) else weight)
        assert held is not None  # decoder_fault
        return held

    return hold


class _Files:
    """Opens a model's files when a tensor is first asked for."""

    def __init__(self, source: ModelSource) -> None:
        self._source = source
        self._places: dict[str, Any] | None = None

    def read(self, name: str) -> torch.Tensor | None:
        """Return a tensor in its file's memory; None where there is none of that name."""
        if self._places is None:
            self._places = self._open()
        opened = self._places.get(name)
        return None if opened is None else opened.get_tensor(name)  # type: ignore[no-any-return]

    def _open(self) -> dict[str, Any]:
        from safetensors import SafetensorError, safe_open

        try:
            files = [safe_open(file, framework="pt") for file in weight_files(self._source.folder)]
            self._source.check_unchanged()
        except (OSError, ValueError, KeyError, SafetensorError, ModelError):  # moved since: the model in memory serves
            return {}
        return {name: opened for opened in files for name in _names(opened)}


def _names(opened: Any) -> list[str]:
    return list(opened.keys())
