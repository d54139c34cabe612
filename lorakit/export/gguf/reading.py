"""A GGUF file read back into a model of transformers, for families that its own loader does not know.

No reading is written beside the writing: the plan of the file is carried out on the places of the model's values
instead of the values, which tells where each number of the file belongs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from lorakit.errors import ProofError
from lorakit.export.gguf.family import family_of
from lorakit.export.gguf.file import GgufTensor
from lorakit.export.gguf.tensors import planned_tensors
from lorakit.export.weights.tensors import ModelTensors
from lorakit.model_config import ModelBundle


def read_gguf(file: Path, kind: Any, config: Any, bundle: ModelBundle) -> Any:
    """Read a file's numbers into a model.

    Args:
        file: As `write_model_gguf` leaves it.
        kind: The model's class in transformers.
        config: Of the model.
        bundle: For device and number format.

    Raises:
        ProofError: A tensor is missing, or has another shape.
    """
    model = kind(config)
    _fill(model, {tensor.name: tensor for tensor in GGUFReader(file).tensors}, config, file)
    return model.to(bundle.device, bundle.dtype.dtype).eval()


def _fill(model: Any, found: dict[str, Any], config: Any, file: Path) -> None:
    state = model.state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    starts = [0, *accumulate(value.numel() for value in state.values())]
    begins = dict(zip(state, starts, strict=False))
    places = ModelTensors(shapes, lambda name: begins[name] + torch.arange(state[name].numel()).view(shapes[name]))
    for planned, place, added in _plan(config, places):
        tensor = found.get(planned.name)
        numbers = None if tensor is None else torch.tensor(dequantize(tensor.data, tensor.tensor_type))
        if numbers is None or tuple(numbers.shape) != planned.shape:
            raise ProofError(f"{file.name}: {planned.name} is missing or has another shape", "report this")
        index = bisect_right(starts, int(place.min())) - 1
        own = list(state.values())[index].view(-1)
        own[place.flatten() - starts[index]] = (numbers - added).flatten()


def _plan(config: Any, places: ModelTensors) -> Iterator[tuple[GgufTensor, torch.Tensor, torch.Tensor]]:
    """Yield each tensor of the file, the places of its numbers, and what was added to them."""
    family = family_of(config)
    zeros = ModelTensors(places.shapes, lambda name: torch.zeros(places.shapes[name], dtype=torch.float64))
    exact = ModelTensors(places.shapes, lambda name: places.read(name).double())  # up to 2**53
    for planned, added in zip(
        planned_tensors(family, config, exact, "f32"), planned_tensors(family, config, zeros, "f32"), strict=True
    ):
        more = added.read()
        yield planned, (planned.read() - more).round().long(), more.float()
