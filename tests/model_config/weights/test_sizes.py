"""What weights take, told from the headers of their files: as much as they do take."""

import pytest
import torch
from conftest import FAMILIES
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from lorakit.config import Config
from lorakit.engine import DtypeChoice
from lorakit.model_config import bytes_saved, fewer_bits, load_model, load_tokenizer, locate_model, weight_bytes

CPU = torch.device("cpu")


def parameter_bytes(model):
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_weights_take_what_the_files_say(model_folder, family, dtype):
    source = locate_model(str(model_folder(family)), "huggingface")
    model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=dtype)
    assert weight_bytes(source, dtype) == pytest.approx(parameter_bytes(model), rel=0.01)


@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_weights_of_few_bits_take_what_was_told(model_folder, kind):
    pytest.importorskip("bitsandbytes")
    source = locate_model(str(model_folder("llama")), "huggingface")
    plain = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32)
    found = load_model(source, load_tokenizer(source), DtypeChoice(torch.float32, "test"), CPU, kind).model
    assert weight_bytes(source, torch.float32, kind) == pytest.approx(parameter_bytes(found), rel=0.02)
    assert bytes_saved(plain, kind) == pytest.approx(parameter_bytes(plain) - parameter_bytes(found), rel=0.05)


@pytest.mark.parametrize("content", [b"", b"\xff" * 40, b"\x02" + b"\0" * 7 + b"[]", b"\x08" + b"\0" * 7 + b'{"a": 1}'])
def test_a_damaged_file_is_left_to_the_loading(model_folder, tmp_path, content):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(content)
    assert weight_bytes(locate_model(str(tmp_path), "huggingface"), torch.float32) == 0


def test_only_the_files_of_the_index_count(model_folder, tmp_path):
    weights = load_file(model_folder("llama") / "model.safetensors")
    save_file(weights, tmp_path / "part-1.safetensors")
    save_file({f"copy.{name}": tensor for name, tensor in weights.items()}, tmp_path / "copy.safetensors")
    (tmp_path / "config.json").write_text("{}")
    source = locate_model(str(tmp_path), "huggingface")
    whole = locate_model(str(model_folder("llama")), "huggingface")
    assert weight_bytes(source, torch.float32) == 2 * weight_bytes(whole, torch.float32)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "part-1.safetensors"}}')
    assert weight_bytes(source, torch.float32) == weight_bytes(whole, torch.float32)


def test_fewer_bits_than_those_that_are_set():
    assert list(fewer_bits(Config())) == ["8bit", "4bit"]
    assert fewer_bits(Config(load_in_8bit=True)) == {"4bit": {"load_in_4bit": True, "load_in_8bit": False}}
    assert fewer_bits(Config(load_in_4bit=True)) == {}
