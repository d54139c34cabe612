"""Small models written as their makers publish them in fewer bits, and what those bits stand for, number by number."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from agreement_models import small_model
from conftest import family_tokenizer
from safetensors.torch import load_file, save_file

HALF_BYTES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
FP8_METHOD = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [32, 32]}
MXFP4_METHOD = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens", "lm_head"]}
CHANNELS = {  # by compressed-tensors: a scale for each output
    "quant_method": "compressed-tensors",
    "format": "float-quantized",
    "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}},
}


def packed_mxfp4(weight):
    """[experts, in, out] as blocks [experts, out, in / 32, 16], two numbers a byte, and a scale for each block."""
    blocks = weight.float().transpose(1, 2).unflatten(-1, (-1, 32))
    exponent = torch.floor(torch.log2(blocks.abs().amax(-1))) - 2
    scaled = blocks / torch.exp2(exponent)[..., None]
    nearest = (scaled.abs()[..., None] - torch.tensor(HALF_BYTES)).abs().argmin(-1)
    codes = (nearest + 8 * (scaled < 0)).to(torch.uint8)
    return codes[..., 0::2] | (codes[..., 1::2] << 4), (exponent + 127).to(torch.uint8)


def meant_by_mxfp4(blocks, scales):
    """What the bytes stand for, one after the other."""
    experts, rows, groups, size = blocks.shape
    meant = torch.zeros(experts, groups * size * 2, rows)
    for expert, row, group, place in torch.cartesian_prod(*map(torch.arange, blocks.shape)).tolist():
        byte = int(blocks[expert, row, group, place])
        for half, code in enumerate((byte % 16, byte // 16)):
            number = HALF_BYTES[code % 8] * (-1 if code >= 8 else 1) * 2.0 ** (int(scales[expert, row, group]) - 127)
            meant[expert, group * 32 + place * 2 + half, row] = number
    return meant


def packed_fp8(weight, rows, columns):
    """A weight in FP8 and the scales of its blocks; those at an edge may be smaller."""
    scales = torch.zeros(-(-weight.shape[0] // rows), -(-weight.shape[1] // columns))
    packed = torch.zeros(weight.shape, dtype=torch.float8_e4m3fn)
    for i, j in torch.cartesian_prod(*map(torch.arange, scales.shape)).tolist():
        block = (slice(i * rows, (i + 1) * rows), slice(j * columns, (j + 1) * columns))
        scales[i, j] = weight[block].abs().max() / 448
        packed[block] = (weight[block] / scales[i, j]).to(torch.float8_e4m3fn)
    return packed, scales


def save_narrow(kind, folder, **chosen):
    """Write a small model whose matrices are in fewer bits, and return its folder."""
    folder = Path(folder)
    tokenizer = family_tokenizer("qwen3")
    chosen = {"vocab_size": len(tokenizer), "max_position_embeddings": 2048, "eos_token_id": 0} | chosen
    model_type, method = {
        "mxfp4": ("gpt_oss", MXFP4_METHOD),
        "fp8": ("qwen3", FP8_METHOD),
        "fp8-experts": ("qwen3_moe", FP8_METHOD),
        "channels": ("qwen3", CHANNELS),
    }[kind]
    small_model(model_type, **chosen).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(_narrow(kind, whole), folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    settings |= {"quantization_config": method, "dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def _narrow(kind, whole):
    found = {}
    for name, weight in whole.items():
        if kind == "mxfp4" and name.endswith("_proj"):
            found[f"{name}_blocks"], found[f"{name}_scales"] = packed_mxfp4(weight)
        elif kind == "channels" and name.endswith("proj.weight"):
            found[name], found[f"{name}_scale"] = packed_fp8(weight, 1, weight.shape[1])
        elif kind.startswith("fp8") and name.endswith("proj.weight"):
            found[name], found[f"{name}_scale_inv"] = packed_fp8(weight, 32, 32)
        else:
            found[name] = weight.bfloat16()
    return found
