"""Weights in fewer bits are what transformers' own quantizers and a loop over their bytes make of them."""

import json

import pytest
import torch
from narrow_models import meant_by_mxfp4, packed_fp8, packed_mxfp4, save_narrow
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config

from lorakit.engine import DtypeChoice
from lorakit.errors import ModelError
from lorakit.model_config import load_model, load_tokenizer, locate_model, weight_bytes
from lorakit.model_config.loading import _read_weights as read_weights
from lorakit.model_config.weights.stored_tensors import stored_tensors

CPU = torch.device("cpu")
OWN_WAYS = {"mxfp4": Mxfp4Config, "fp8": FineGrainedFP8Config, "fp8-experts": FineGrainedFP8Config}


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """Return a function from a kind of bits to the folder of a small model in them."""
    root = tmp_path_factory.mktemp("narrow")
    return lambda kind: root / kind if (root / kind).is_dir() else save_narrow(kind, root / kind)


def opened(folder, dtype=torch.float32):
    source = locate_model(str(folder), "huggingface")
    return source, load_model(source, load_tokenizer(source), DtypeChoice(dtype, "test"), CPU).model


@pytest.mark.every(2)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", OWN_WAYS)
def test_a_model_in_fewer_bits_is_loaded_as_transformers_dequantises_it(kind, dtype, narrow, capsys):
    source, model = opened(narrow(kind), dtype)
    said = " ".join(capsys.readouterr().err.split())
    whole = OWN_WAYS[kind](dequantize=True)
    wanted = AutoModelForCausalLM.from_pretrained(source.folder, dtype=dtype, quantization_config=whole).state_dict()
    found = model.state_dict()
    assert found.keys() == wanted.keys()
    # what has no scale stays in transformers in the format of the files
    assert all(torch.equal(found[name], tensor.to(dtype)) for name, tensor in wanted.items())
    assert {tensor.dtype for tensor in found.values()} == {dtype}
    assert "quantization_config" not in model.config.to_dict()
    assert weight_bytes(source, dtype) == sum(tensor.nbytes for tensor in model.parameters())
    assert f"are widened to {str(dtype).removeprefix('torch.')}" in said


def test_mxfp4_is_what_its_bytes_stand_for(tmp_path):
    drawn = torch.Generator().manual_seed(1)
    blocks, scales = packed_mxfp4(torch.randn(2, 64, 3, generator=drawn))
    assert blocks.shape == (2, 3, 2, 16)
    write(tmp_path, {"mlp.experts.down_proj_blocks": blocks, "mlp.experts.down_proj_scales": scales}, "mxfp4")
    found = stored_tensors(tmp_path)
    assert found.keys() == {"mlp.experts.down_proj"}
    assert found["mlp.experts.down_proj"].shape == (2, 64, 3)
    assert torch.equal(found["mlp.experts.down_proj"].read(), meant_by_mxfp4(blocks, scales))


def write(folder, tensors, method, **more):
    save_file(tensors, folder / "model.safetensors")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 8}
    settings = {"model_type": "qwen3", "quantization_config": {"quant_method": method, **more}, **sizes}
    (folder / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("shape", "block"), [((96, 64), (32, 32)), ((80, 50), (32, 32)), ((24, 40), (128, 128)), ((48, 64), (32, 64))]
)
def test_blocks_of_fp8_are_those_of_the_configuration_where_they_do_not_divide_a_weight_too(shape, block, tmp_path):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    packed, scales = packed_fp8(weight, *block)
    # of 48 rows in blocks of 32 the second has 16; two halves of 24 would be another model
    write(tmp_path, {"w": packed, "w_scale_inv": scales}, "fp8", weight_block_size=list(block))
    found = stored_tensors(tmp_path)["w"].read()
    wanted = torch.tensor(
        [
            [packed[i, j].float().item() * scales[i // block[0], j // block[1]].item() for j in range(shape[1])]
            for i in range(shape[0])
        ]
    )
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    assert (found - weight).norm() < 0.05 * weight.norm()


@pytest.mark.parametrize(
    ("scale", "factor"),
    [
        (torch.tensor(0.5), 0.5),
        (torch.tensor([0.25]), 0.25),
        (torch.tensor([[2.0]], dtype=torch.bfloat16), 2.0),
        (torch.tensor([[125]], dtype=torch.uint8), 0.25),  # an exponent of two, with 127 for one
        (torch.tensor([[0.5], [1.0], [2.0], [4.0]]), torch.tensor([[0.5], [1.0], [2.0], [4.0]])),
        (torch.tensor([[0.5, 2.0]]), torch.tensor([[0.5, 0.5, 2.0, 2.0]])),
    ],
)
@pytest.mark.parametrize("name", ["w_scale_inv", "w_scale"])
def test_a_scale_is_of_a_whole_weight_of_a_row_or_of_columns(name, scale, factor, tmp_path):
    weight = torch.arange(16.0).reshape(4, 4).to(torch.float8_e4m3fn)
    write(tmp_path, {"w": weight, name: scale, "layer.input_scale": torch.ones(1)}, "fp8", weight_block_size=None)
    found = stored_tensors(tmp_path)
    assert found.keys() == {"w"}
    assert torch.equal(found["w"].read(), torch.arange(16.0).reshape(4, 4) * factor)


EIGHT = torch.zeros(4, 4, dtype=torch.float8_e4m3fn)
BYTES = torch.zeros(1, 2, 1, 16, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("method", "tensors", "words"),
    [
        ("fp8", {"w": torch.zeros(4, 4)}, "its files have none that are"),
        ("mxfp4", {"w": torch.zeros(4, 4)}, "its files have none that are"),
        ("fp8", {"w": EIGHT}, "w is in FP8 and has no scale"),
        ("fp8", {"w": EIGHT, "w_scale_inv": torch.zeros(3, 1)}, "w has [4, 4] numbers, and w_scale_inv [3, 1]"),
        ("fp8", {"w": EIGHT, "w_scale_inv": torch.zeros(2, 2, 2)}, "w has [4, 4] numbers"),
        ("fp8", {"w": EIGHT, "w_scale_inv": torch.zeros(0, 4)}, "w has [4, 4] numbers"),
        ("mxfp4", {"w_blocks": BYTES, "w_scales": BYTES[0, :, 0, :1]}, "w_scales U8 [2, 1]"),
        ("mxfp4", {"w_blocks": BYTES.float(), "w_scales": BYTES[..., 0]}, "w_blocks is F32"),
        ("mxfp4", {"w_blocks": BYTES[..., :8].contiguous(), "w_scales": BYTES[..., 0].contiguous()}, "w_blocks is U8"),
    ],
)
def test_bits_that_do_not_fit_each_other_are_refused(method, tensors, words, tmp_path):
    write(tmp_path, {name: tensor.contiguous() for name, tensor in tensors.items()}, method)
    with pytest.raises(ModelError, match="cannot be loaded") as refused:
        read_weights(locate_model(str(tmp_path), "huggingface"), DtypeChoice(torch.float32, "test"), {})
    assert words in str(refused.value)


def test_experts_are_widened_into_the_format_that_is_asked_for(narrow):
    folder = narrow("mxfp4")
    stored = load_file(folder / "model.safetensors")
    place = "model.layers.1.mlp.experts.gate_up_proj"
    meant = meant_by_mxfp4(stored[f"{place}_blocks"][:1], stored[f"{place}_scales"][:1])
    found = stored_tensors(folder, torch.bfloat16)[place].read()
    assert found.dtype is torch.bfloat16
    assert torch.equal(found[:1].float(), meant)  # which bfloat16 holds exactly
