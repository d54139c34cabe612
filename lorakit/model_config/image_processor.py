"""What prepares pictures for a vision-language model: read, and held to the model that it belongs to."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from lorakit import console
from lorakit.errors import ModelError
from lorakit.invocation import installing
from lorakit.model_config.source import ModelSource
from lorakit.model_config.trust import first_line, read_settings
from lorakit.outgoing import strict_json

PROCESSOR_FILE = "preprocessor_config.json"
TRAINED_PIXELS = "lorakit_pixels"  # of a merged model, in that file
# Families whose pictures are read here; others take text only.
VISION_FAMILIES = frozenset({"qwen2_5_vl", "qwen3_vl"})
# A setting of the processor, and that of the vision tower which must be the same.
_SAME = {"patch_size": "patch_size", "merge_size": "spatial_merge_size", "temporal_patch_size": "temporal_patch_size"}


def load_image_processor(source: ModelSource) -> tuple[Any, int] | None:
    """Load it.

    Returns:
        transformers' image processor and the id of the token that stands for a part of a picture; None for a model
        that takes text only.

    Raises:
        ModelError: torchvision is not installed, or the processor's file is missing, or it is not the model's.
    """
    with source.unchanged():
        return _read_processor(source)


def _read_processor(source: ModelSource) -> tuple[Any, int] | None:
    settings = read_settings(source)
    if settings["model_type"] not in VISION_FAMILIES:
        return None
    if importlib.util.find_spec("torchvision") is None:
        raise ModelError(
            f"{source.name}: a vision-language model needs torchvision, which is not installed",
            installing("vision"),
        )
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(
            source.folder, local_files_only=True, trust_remote_code=source.runs_own_code
        )
        token = int(settings["image_token_id"])
    except Exception as error:
        raise ModelError(
            f"{source.name}: its image processor cannot be loaded ({first_line(error)})",
            f"the folder needs {PROCESSOR_FILE} beside config.json",
        ) from error
    _check_belongs(source, processor, settings.get("vision_config") or {})
    return processor, token


def _check_belongs(source: ModelSource, processor: Any, tower: dict[str, Any]) -> None:
    """Raise where pictures would be cut otherwise than the model was built for."""
    if getattr(processor, "do_resize", True) is False:
        raise ModelError(
            f"{source.name}: {PROCESSOR_FILE} has do_resize: false, so its pictures would keep sizes that are no "
            "multiple of a patch, and max_pixels would mean nothing",
            "set do_resize: true there, as the model's makers do",
        )
    for own, of_tower in _SAME.items():
        found, wanted = getattr(processor, own, None), tower.get(of_tower)
        if found is not None and wanted is not None and found != wanted:
            raise ModelError(
                f"{source.name}: {PROCESSOR_FILE} has {own}: {found}, the model's vision tower {of_tower}: {wanted}",
                "take both files from the same place",
            )


def trained_pixels(folder: Path) -> tuple[int, int] | None:
    """Return the fewest and most pixels of the pictures that a merged model was trained on; None where nobody says."""
    try:
        least, most = json.loads((folder / PROCESSOR_FILE).read_text(encoding="utf-8"))[TRAINED_PIXELS]
        return int(least), int(most)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def write_trained_pixels(folder: Path, pixels: tuple[int, int]) -> None:
    """Let a merged model's folder ask for the sizes of its training, so that other tools see as many tokens."""
    file = folder / PROCESSOR_FILE
    settings = json.loads(file.read_text(encoding="utf-8"))
    settings["size"] = {"shortest_edge": pixels[0], "longest_edge": pixels[1]}
    settings |= {
        name: value for name, value in zip(("min_pixels", "max_pixels"), pixels, strict=True) if name in settings
    }
    settings[TRAINED_PIXELS] = list(pixels)
    file.write_text(strict_json(settings, indent=2) + "\n", encoding="utf-8")


def warn_of_other_pixels(folder: Path, pixels: tuple[int, int]) -> None:
    """Say that pictures will have other sizes than those a merged model was trained on."""
    trained = trained_pixels(folder)
    if trained is not None and trained != pixels:
        console.warn(
            f"{folder}: pictures of {pixels[0]} to {pixels[1]} pixels, in its training of {trained[0]} to "
            f"{trained[1]}: set min_pixels and max_pixels"
        )
