import json
import os

import pytest

from lorakit.errors import AdapterError, RunError
from lorakit.export.hub.parcel import pack_up


@pytest.fixture
def folder(tmp_path):
    """Return a function that fills a folder with files."""

    def fill(*names, name="lora_model", proof=None):
        folder = tmp_path / name
        folder.mkdir()
        for file in names:
            (folder / file).write_bytes(b"12345")
        if proof is not None:
            (folder / "proof.json").write_text(proof if isinstance(proof, str) else json.dumps(proof))
        return folder

    return fill


def sent(folder):
    return [file.name for file in pack_up(folder).files]


ADAPTER = ["README.md", "adapter_config.json", "adapter_model.safetensors", "lorakit.json", "tokenizer_config.json"]
MODEL = ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
NOT_SENT = [
    ".lock",
    ".ms_upload_cache",
    "README.md.writing",
    "adapter_model.bin",
    "events.jsonl",
    "manifest.json",
    "model-old.safetensors",
    "my rows.json",
    "optimizer.safetensors",
    "predictions.jsonl",
    "random-0.safetensors",
    "run.json",
    "trainer_state.json",
    "training_args.bin",
]


@pytest.mark.parametrize("belonging", [ADAPTER, MODEL, ["Modelfile", "base-f16.gguf"]])
def test_files_that_belong_there_are_sent_and_all_others_named(folder, belonging):
    parcel = pack_up(folder(*belonging, *NOT_SENT))
    assert [file.name for file in parcel.files] == sorted(belonging)
    assert list(parcel.left) == sorted(NOT_SENT)
    assert {file.size for file in parcel.files} == {5}


def test_folders_and_links_are_left(folder, tmp_path):
    place = folder(*ADAPTER)
    (place / "checkpoint-3").mkdir()
    (place / "tokenizer.json").mkdir()
    (tmp_path / "private").write_text("x")
    os.symlink(tmp_path / "private", place / "vocab.json")
    parcel = pack_up(place)
    assert [file.name for file in parcel.files] == ADAPTER
    assert parcel.left == ("checkpoint-3/", "tokenizer.json/", "vocab.json (a link)")


def test_what_has_been_proven_is_sent_with_its_proof(folder):
    assert sent(folder(*MODEL, proof={"proven": True})) == [*MODEL, "proof.json"]


def test_an_unproven_folder_is_refused_by_its_name(folder, monkeypatch):
    place = folder(*MODEL, name="merged.unproven", proof={"proven": True})
    with pytest.raises(RunError, match="has not been proven"):
        pack_up(place)
    monkeypatch.chdir(place)
    from pathlib import Path

    with pytest.raises(RunError, match="has not been proven"):
        pack_up(Path())


@pytest.mark.parametrize(
    ("proof", "said"),
    [
        ({"proven": False}, "is not what it was made from"),
        ({"proven": "yes"}, "is not what it was made from"),
        ({}, "is damaged"),
        ([], "is damaged"),
        ("{", "is damaged"),
        ("[" * 100_000, "is damaged"),
    ],
)
def test_a_folder_with_another_proof_is_refused(folder, proof, said):
    with pytest.raises(RunError, match=said):
        pack_up(folder(*MODEL, proof=proof))


@pytest.mark.parametrize("names", [(), ("README.md",), ("config.json", "optimizer.safetensors")])
def test_a_folder_without_weights_is_refused(folder, names):
    with pytest.raises(AdapterError, match="neither an adapter nor a model"):
        pack_up(folder(*names))


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(AdapterError, match="no such folder"):
        pack_up(tmp_path / "none")
