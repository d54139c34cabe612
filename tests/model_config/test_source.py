import shutil
import sys
from types import SimpleNamespace

import huggingface_hub
import pytest
from conftest import save_family
from transformers import AutoModelForCausalLM

from lorakit.errors import ModelError
from lorakit.model_config import locate_model


def test_a_local_folder_is_taken_as_it_is(model_folder):
    folder = model_folder("llama")
    source = locate_model(str(folder), "huggingface")
    assert source.folder == folder
    assert source.reference == str(folder)


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "none/at/all", "~/none", "..", r"C:\models\none"])
def test_a_missing_folder_names_the_three_ways_to_a_model(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        locate_model(name, "huggingface")
    for way in ("starter", "local folder", "hub name"):
        assert way in caught.value.hint


def test_a_folder_that_is_no_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        locate_model(str(tmp_path), "huggingface")


def test_a_hub_name_is_fetched_without_weights_in_other_formats(monkeypatch, model_folder):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(model_folder("llama"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    source = locate_model("Qwen/Qwen3-0.6B", "huggingface")
    assert source.reference == "Qwen/Qwen3-0.6B"
    [(name, patterns)] = asked
    assert name == "Qwen/Qwen3-0.6B"
    assert "*.safetensors" in patterns
    assert "pytorch_model*.bin" not in patterns


def test_an_old_repository_without_safetensors_gives_its_bin_files(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, allow_patterns: asked.append(allow_patterns) or str(tmp_path),
    )
    locate_model("facebook/opt-125m", "huggingface")
    assert "pytorch_model*.bin" in asked[1]


def test_a_hub_that_does_not_answer_names_the_three_ways(monkeypatch):
    def snapshot_download(name, allow_patterns):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError) as caught:
        locate_model("Qwen/Qwen3-0.6B", "huggingface")
    assert "Hugging Face did not give it (no route)" in caught.value.message
    assert "three ways" in caught.value.hint


def test_modelscope_is_asked_where_it_is_the_hub(monkeypatch, model_folder):
    fetched = SimpleNamespace(snapshot_download=lambda name, allow_patterns: str(model_folder("llama")))
    monkeypatch.setitem(sys.modules, "modelscope", fetched)
    assert locate_model("Qwen/Qwen3-0.6B", "modelscope").folder == model_folder("llama")


def test_modelscope_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelError) as caught:
        locate_model("Qwen/Qwen3-0.6B", "modelscope")
    assert caught.value.hint == "pip install -e .[modelscope]"


def test_the_fingerprint_knows_weights_not_files(model_folder, tmp_path):
    folder = model_folder("llama")
    fingerprint = locate_model(str(folder), "huggingface").fingerprint()
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert locate_model(str(moved), "huggingface").fingerprint() == fingerprint
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    assert locate_model(str(sharded), "huggingface").fingerprint() == fingerprint
    other = save_family("llama", tmp_path / "other", seed=1)
    assert locate_model(str(other), "huggingface").fingerprint() != fingerprint
