import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from conftest import save_family
from huggingface_hub.utils import filter_repo_objects
from transformers import AutoModelForCausalLM

from lorakit.errors import ModelError
from lorakit.invocation import installing
from lorakit.model_config import ModelSource, locate_model
from lorakit.model_config.trust import check_weight_files


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

    def snapshot_download(name, allow_patterns, ignore_patterns):
        asked.append((name, allow_patterns, ignore_patterns))
        return str(model_folder("llama"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    source = locate_model("Qwen/Qwen3-0.6B", "huggingface")
    assert source.reference == "Qwen/Qwen3-0.6B"
    [(name, allowed, ignored)] = asked
    assert name == "Qwen/Qwen3-0.6B"
    files = ["model.safetensors", "pytorch_model.bin", "original/model.safetensors", "config.json"]
    found = list(filter_repo_objects(files, allow_patterns=allowed, ignore_patterns=ignored))
    assert found == ["model.safetensors", "config.json"]


@pytest.fixture
def old_repository(monkeypatch, tmp_path, model_folder):
    """A hub whose model has safetensors only where its converter has proposed them; what was asked of it."""
    fetched = tmp_path / "models--facebook--opt-125m" / "snapshots" / "0123"
    fetched.mkdir(parents=True)
    (fetched / "config.json").write_text("{}")
    asked = []

    def snapshot_download(name, allow_patterns, ignore_patterns=None, revision=None):
        asked.append((revision, allow_patterns))
        return str(model_folder("opt") if revision == "refs/pr/7" else fetched)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return SimpleNamespace(asked=asked, folder=fetched)


def propose(monkeypatch, *authors):
    proposed = [SimpleNamespace(author=author, git_reference=f"refs/pr/{n}") for n, author in enumerate(authors, 6)]
    monkeypatch.setattr(huggingface_hub, "get_repo_discussions", lambda name, **filters: iter(proposed))


def test_an_old_repository_gives_the_safetensors_of_the_hubs_own_converter(monkeypatch, old_repository, model_folder):
    propose(monkeypatch, "somebody", "SFconvertbot")
    assert locate_model("facebook/opt-125m", "huggingface").folder == model_folder("opt")
    assert [revision for revision, _ in old_repository.asked] == [None, "refs/pr/7"]


def test_a_conversion_fetched_before_is_found_without_a_network(monkeypatch, old_repository, model_folder):
    def get_repo_discussions(name, **filters):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "get_repo_discussions", get_repo_discussions)
    with pytest.raises(ModelError, match="no route"):
        locate_model("facebook/opt-125m", "huggingface")
    reference = old_repository.folder.parents[1] / "refs" / "refs" / "pr" / "7"
    reference.parent.mkdir(parents=True)
    reference.write_text("4567")
    assert locate_model("facebook/opt-125m", "huggingface").folder == model_folder("opt")


def test_a_pickle_is_never_asked_for(monkeypatch, old_repository):
    propose(monkeypatch, "somebody")
    source = locate_model("facebook/opt-125m", "huggingface")
    assert not any(".bin" in pattern for _, patterns in old_repository.asked for pattern in patterns)
    with pytest.raises(ModelError, match=r"there is no \*\.safetensors"):
        check_weight_files(source)


@pytest.mark.parametrize("is_asked_for", [False, True])
def test_code_is_fetched_only_where_it_is_asked_for(monkeypatch, model_folder, is_asked_for):
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, allow_patterns, ignore_patterns: asked.extend(allow_patterns) or str(model_folder("llama")),
    )
    assert locate_model("owner/name", "huggingface", is_asked_for).runs_own_code == is_asked_for
    assert ("*.py" in asked) == is_asked_for


def test_a_hub_that_does_not_answer_names_the_three_ways(monkeypatch):
    def snapshot_download(name, allow_patterns, ignore_patterns):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelError) as caught:
        locate_model("Qwen/Qwen3-0.6B", "huggingface")
    assert "Hugging Face did not give it (no route)" in caught.value.message
    assert "three ways" in caught.value.hint


def test_modelscope_is_asked_where_it_is_the_hub(monkeypatch, model_folder):
    fetched = SimpleNamespace(
        snapshot_download=lambda name, allow_patterns, ignore_patterns: str(model_folder("llama"))
    )
    monkeypatch.setitem(sys.modules, "modelscope", fetched)
    assert locate_model("Qwen/Qwen3-0.6B", "modelscope").folder == model_folder("llama")


def test_modelscope_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelError) as caught:
        locate_model("Qwen/Qwen3-0.6B", "modelscope")
    assert caught.value.hint == installing("modelscope")


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


@pytest.mark.parametrize(
    ("name", "folder", "hub_name"),
    [
        ("owner/base", "/cache/snapshots/0123", "owner/base"),
        ("owner/base", "owner/base", None),
        ("~/base", str(Path("~/base").expanduser()), None),
        ("starter", "/cache/starter-1", None),
    ],
)
def test_a_folder_that_looks_like_a_hub_name_is_none(name, folder, hub_name):
    assert ModelSource(name, Path(folder)).hub_name == hub_name
