"""A model's folder of safetensors: read one tensor at a time, written in shards."""

from __future__ import annotations

from pathlib import Path

import torch

from lorakit.errors import ModelError
from lorakit.export.weights.tensors import ModelTensors
from lorakit.model_config.source import weight_files
from lorakit.model_config.weights.stored_tensors import stored_tensors
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
    missing = next((file for file in weight_files(folder) if not file.is_file()), None)
    if missing is not None:
        raise ModelError(f"{folder}: its index names {missing.name}, which is missing", "fetch the model again")
    stored = stored_tensors(folder)
    shapes = {name: tensor.shape for name, tensor in stored.items()}
    widened = frozenset(name for name, tensor in stored.items() if tensor.widen is not None)
    return ModelTensors(shapes, lambda name: stored[name].read(), widened)


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
