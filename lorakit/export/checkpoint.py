"""A model's folder of safetensors: read one tensor at a time, written in shards."""

from __future__ import annotations

from pathlib import Path

import torch

from lorakit.errors import ModelError
from lorakit.export.tensors import ModelTensors
from lorakit.model_config.source import weight_files
from lorakit.outgoing import strict_json

_INDEX = "model.safetensors.index.json"
_PATTERN = "model{suffix}.safetensors"
# What is written is in memory twice until it is on the disk: as tensors and as bytes.
SHARD_BYTES = 256 * 1024**2


def read_checkpoint(folder: Path) -> ModelTensors:
    """Open the tensors of a folder; their bytes are read when they are asked for.

    Raises:
        ModelError: A file that the folder's index names is not there.
    """
    from safetensors import safe_open

    places = _places(folder)
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(set(places.values())):
        with safe_open(file, framework="pt") as opened:
            shapes |= {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118

    def read(name: str) -> torch.Tensor:
        with safe_open(places[name], framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(name)
        return tensor

    return ModelTensors({name: shapes[name] for name in places}, read)


def _places(folder: Path) -> dict[str, Path]:
    from safetensors import safe_open

    places: dict[str, Path] = {}
    for file in weight_files(folder):
        if not file.is_file():
            raise ModelError(f"{folder}: its index names {file.name}, which is missing", "fetch the model again")
        with safe_open(file, framework="pt") as opened:
            places |= dict.fromkeys(opened.keys(), file)
    return places


def write_checkpoint(folder: Path, tensors: ModelTensors, bytes_each: int, shard_bytes: int = SHARD_BYTES) -> None:
    """Write a model's weights, in as many files as their size asks for, with the index that transformers reads.

    Args:
        folder: Gets the files.
        tensors: What is written; one shard of it is in memory at a time.
        bytes_each: Of a value, for the plan of the shards.
        shard_bytes: Most of one file; a tensor that is larger gets a file of its own.
    """
    from huggingface_hub import split_state_dict_into_shards_factory
    from safetensors.torch import save_file

    sizes = {name: torch.Size(shape).numel() * bytes_each for name, shape in tensors.shapes.items()}
    split = split_state_dict_into_shards_factory(
        sizes,
        get_storage_size=int,
        get_storage_id=lambda _: None,
        filename_pattern=_PATTERN,
        max_shard_size=shard_bytes,
    )
    for file, names in split.filename_to_tensors.items():
        shard = {name: tensors.read(name).contiguous() for name in names}
        (folder / file).touch()
        mode = (folder / file).stat().st_mode
        save_file(shard, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(mode)  # safetensors makes files that only their owner may read
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / _INDEX).write_text(strict_json(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
