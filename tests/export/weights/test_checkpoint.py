"""A model's files: read as transformers reads them, written so that it can."""

import json

import pytest
import torch
from conftest import FAMILIES
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from lorakit.errors import ModelError
from lorakit.export.weights.checkpoint import read_checkpoint, write_checkpoint
from lorakit.export.weights.tensors import ModelTensors


def copied(source, folder, **options):
    tensors = read_checkpoint(source)
    folder.mkdir()
    write_checkpoint(folder, tensors, 4, **options)
    return tensors, read_checkpoint(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_written_is_what_was_read(family, model_folder, tmp_path):
    before, after = copied(model_folder(family), tmp_path / "copy")
    assert after.shapes == before.shapes
    assert all(torch.equal(after.read(name), before.read(name)) for name in before.shapes)


def test_a_large_model_is_written_in_shards_that_transformers_puts_together(model_folder, tmp_path):
    source, folder = model_folder("qwen3"), tmp_path / "copy"
    before, after = copied(source, folder, shard_bytes=40_000)
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    assert len(files) > 2
    assert files[0].startswith("model-00001-of-")
    assert set(after.shapes) == set(before.shapes)
    (folder / "config.json").write_text((source / "config.json").read_text())
    own, copy = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (source, folder))
    assert all(torch.equal(copy[name], value) for name, value in own.items())


def test_files_may_be_read_by_whoever_may_read_their_folder(model_folder, tmp_path):
    copied(model_folder("llama"), tmp_path / "copy")
    (tmp_path / "plain").touch()
    assert (tmp_path / "copy" / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_second_layout_of_the_same_weights_is_left_alone(model_folder, tmp_path):
    copied(model_folder("llama"), tmp_path / "copy")
    save_file({"consolidated": torch.zeros(3)}, tmp_path / "copy" / "consolidated.safetensors")
    assert "consolidated" not in read_checkpoint(tmp_path / "copy").shapes


def test_one_shard_is_in_memory_at_a_time(tmp_path):
    asked = []

    def read(name):
        asked.append((name, len(list(tmp_path.glob("*.safetensors")))))
        return torch.zeros(1000)

    names = [f"t{number}" for number in range(4)]
    write_checkpoint(tmp_path, ModelTensors(dict.fromkeys(names, (1000,)), read), 4, shard_bytes=8_000)
    assert asked == [("t0", 0), ("t1", 0), ("t2", 1), ("t3", 1)]


def test_an_index_that_names_a_missing_file_is_refused(tmp_path):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"names model-00001-of-00002\.safetensors, which is missing"):
        read_checkpoint(tmp_path)


def test_an_index_cannot_name_a_file_elsewhere(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.zeros(3)}, tmp_path / "secret.safetensors")
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="missing"):
        read_checkpoint(folder)
