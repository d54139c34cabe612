"""The job with pictures: a random model in Qwen3-VL-2B's shapes, and rows that each ask about a drawn picture."""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jobs import ROOT, Work, layer_parameters, made_up_text
from PIL import Image, ImageDraw
from transformers import (
    AutoModelForImageTextToText,
    AutoTokenizer,
    PreTrainedModel,
    Qwen3VLConfig,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

from lorakit.model_config.starter import starter_folder

SIDE_PIXELS = 448
_TEMPLATE_FILE = ROOT / "scripts" / "chatml_with_pictures.jinja"
_PATCH_PIXELS, _MERGED_PATCHES = 16, 2
_SPECIAL = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
_DEPTH_DIVISOR = 4  # of both towers; 28 and 24 layers in the original
_QUESTION_CHARACTERS, _ANSWER_CHARACTERS = (20, 80), (20, 240)


def vision_model(folder: Path) -> Path:
    """Build the model on first use, with a processor as plain transformers loads it."""
    if folder.is_dir():
        return folder
    tokenizer = AutoTokenizer.from_pretrained(starter_folder())
    tokenizer.add_special_tokens({"additional_special_tokens": _SPECIAL})
    template = _TEMPLATE_FILE.read_text(encoding="utf-8").removesuffix("\n")
    mean = [0.5, 0.5, 0.5]
    size = {"patch_size": _PATCH_PIXELS, "merge_size": _MERGED_PATCHES, "image_mean": mean, "image_std": mean}
    processor = Qwen3VLProcessor(
        Qwen2VLImageProcessor(**size), tokenizer, Qwen3VLVideoProcessor(**size), chat_template=template
    )
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForImageTextToText.from_config(_config(tokenizer), dtype=torch.bfloat16)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        built = Path(temporary) / "built"
        model.save_pretrained(built)
        processor.save_pretrained(built)
        os.replace(built, folder)
    return folder


def _config(tokenizer: Any) -> Qwen3VLConfig:
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in names.items()}
    text = {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28 // _DEPTH_DIVISOR,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5_000_000.0,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    }
    vision = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "depth": 24 // _DEPTH_DIVISOR,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "patch_size": _PATCH_PIXELS,
        "spatial_merge_size": _MERGED_PATCHES,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [1, 2, 4],
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def write_rows(count: int, file: Path) -> list[dict[str, str]]:
    """Draw a picture for each row, and write rows of ``text``, ``target`` and ``image``; always the same."""
    drawn = random.Random(0)  # noqa: S311 - nothing secret
    folder = file.parent / f"{file.stem}-pictures"
    folder.mkdir()
    rows = []
    for number in range(count):
        place = folder / f"{number}.png"
        _picture(drawn).save(place)
        question, answer = (
            made_up_text(drawn.randint(*bounds), drawn) for bounds in (_QUESTION_CHARACTERS, _ANSWER_CHARACTERS)
        )
        rows.append({"text": question, "target": answer, "image": str(place)})
    file.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return rows


def _picture(drawn: random.Random) -> Image.Image:
    image = Image.new("RGB", (SIDE_PIXELS, SIDE_PIXELS), "white")
    pen = ImageDraw.Draw(image)
    for _ in range(8):
        x, y, radius = drawn.randrange(SIDE_PIXELS), drawn.randrange(SIDE_PIXELS), drawn.randrange(10, 120)
        colour = tuple(drawn.randrange(256) for _ in range(3))
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return image


def picture_work(rows: list[dict[str, str]], folder: Path, epochs: int) -> Work:
    """Count what a run needs: every picture once through the vision tower, every row in every epoch."""
    from run_trainer_pictures import PictureCollator
    from transformers import AutoProcessor

    collate = PictureCollator(AutoProcessor.from_pretrained(folder))
    tokens = targets = 0
    for row in rows:
        batch = collate([row])
        tokens += batch["input_ids"].numel()
        targets += int((batch["labels"] != -100).sum())
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = config["text_config"]
    patches = len(rows) * (SIDE_PIXELS // _PATCH_PIXELS) ** 2
    return Work(
        rows=len(rows) * epochs,
        tokens=tokens * epochs,
        target_tokens=targets * epochs,
        layer_parameters=layer_parameters(text),
        vocabulary=text["vocab_size"],
        hidden=text["hidden_size"],
        rows_source="generated",
        picture_flop=2 * tower_parameters_a_patch(config["vision_config"]) * patches,
        weight_bytes=sum(file.stat().st_size for file in folder.glob("*.safetensors")),
    )


def tower_parameters_a_patch(config: Mapping[str, Any]) -> int:
    """Count the weights through which one patch goes: blocks whole, projectors shared by the patches of a token."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    merged = hidden * config["spatial_merge_size"] ** 2
    projectors = 1 + len(config["deepstack_visual_indexes"])
    projector = merged * merged + merged * config["out_hidden_size"]
    block = 4 * hidden * hidden + 2 * hidden * inner
    return int(config["depth"] * block + projectors * projector / config["spatial_merge_size"] ** 2)
