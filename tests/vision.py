"""A tiny Qwen3-VL or Qwen2.5-VL of the real classes, and pictures to show it."""

from __future__ import annotations

import torch
from conftest import make_tokenizer, real_template
from PIL import Image, ImageDraw
from transformers import AutoModelForImageTextToText, Qwen2_5_VLConfig, Qwen3VLConfig
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
SPECIAL += ["<|video_pad|>"]
PATCH, MERGE = 8, 2
SIDE = PATCH * MERGE  # pixels of a token


def vision_tokenizer(family="qwen3_vl"):
    return make_tokenizer(real_template(family), SPECIAL, "<|im_end|>")


def image_processor():
    mean = [0.5, 0.5, 0.5]
    return Qwen2VLImageProcessor(patch_size=PATCH, merge_size=MERGE, image_mean=mean, image_std=mean)


def vision_config(tokenizer, layers=3):
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in _TOKENS.items()}
    text = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True, "rope_theta": 10_000.0}
    tower = {"hidden_size": 32, "depth": 3, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 32}
    return Qwen3VLConfig(
        text_config=text
        | {"head_dim": 8, "intermediate_size": 48, "vocab_size": len(tokenizer), "max_position_embeddings": 2048}
        | {"rope_parameters": rope, "tie_word_embeddings": True},
        vision_config=tower
        | {"patch_size": PATCH, "spatial_merge_size": MERGE, "deepstack_visual_indexes": [0, 1]}
        | {"num_position_embeddings": 64},
        tie_word_embeddings=True,
        **ids,
    )


def windowed_config(tokenizer, layers=3):
    """Of Qwen2.5-VL, whose vision tower attends in windows of 2 x 2 tokens but for its second layer."""
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in _TOKENS.items()}
    text = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "num_key_value_heads": 2}
    rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 10_000.0}
    tower = {"hidden_size": 32, "depth": 3, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 32}
    return Qwen2_5_VLConfig(
        text_config=text
        | {"intermediate_size": 48, "vocab_size": len(tokenizer), "max_position_embeddings": 2048}
        | {"rope_parameters": rope, "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": None},
        vision_config=tower
        | {"patch_size": PATCH, "spatial_merge_size": MERGE, "window_size": 2 * SIDE, "fullatt_block_indexes": [1]},
        tie_word_embeddings=True,
        **ids,
    )


CONFIGS = {"qwen3_vl": vision_config, "qwen2_5_vl": windowed_config}
_TOKENS = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}


def save_vision_model(folder, seed=0, family="qwen3_vl"):
    """Write a tiny random model, its tokenizer and its image processor as a model folder."""
    tokenizer = vision_tokenizer(family)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(CONFIGS[family](tokenizer))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
        parameter.data = parameter.data.half().float()  # numbers that float16 holds as well
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return folder


def draw(path, size, colour, mode="RGB"):
    """Draw a filled circle."""
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((2, 2, size[0] - 3, size[1] - 3), fill=colour)
    image.convert(mode).save(path)
    return str(path)
