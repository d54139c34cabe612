"""How adapters are written in lora_model_path."""

from pathlib import Path

import pytest

from lorakit.errors import SettingsError
from lorakit.model_config import AdapterChoice, choose_adapters


@pytest.mark.parametrize(
    ("text", "name", "folder", "weight"),
    [
        ("runs/a", "a", "runs/a", 1.0),
        ("runs/a:0.5", "a", "runs/a", 0.5),
        ("runs/a:-1", "a", "runs/a", -1.0),
        ("polite=runs/a", "polite", "runs/a", 1.0),
        ("polite=runs/a:0.7", "polite", "runs/a", 0.7),
        ("礼貌=runs/a", "礼貌", "runs/a", 1.0),
        ("qwen3-1.7b=runs/a", "qwen3-1.7b", "runs/a", 1.0),
        ("output/cats/lora_model", "cats", "output/cats/lora_model", 1.0),
        (r"C:\adapters\a", r"C:\adapters\a", r"C:\adapters\a", 1.0),
        ("runs/x=1/a", "a", "runs/x=1/a", 1.0),
    ],
)
def test_name_and_weight_stand_around_the_path(text, name, folder, weight):
    assert choose_adapters([text]) == [AdapterChoice(name, Path(folder), weight)]


@pytest.mark.parametrize("name", ["a=b", "a:0.5", "a=b:2"])
def test_a_folder_of_exactly_that_name_wins(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    assert choose_adapters([name]) == [AdapterChoice(name, Path(name))]


def test_two_of_one_name_are_refused_with_how_to_name_them():
    with pytest.raises(SettingsError, match="two adapters are called 'a'") as raised:
        choose_adapters(["one/a", "two/a"])
    assert "NAME=PATH" in raised.value.hint


@pytest.mark.parametrize("weight", ["nan", "inf", "-inf"])
def test_a_weight_is_a_finite_number(weight):
    with pytest.raises(SettingsError, match="the weight of 'runs/a'"):
        choose_adapters([f"runs/a:{weight}"])


def test_a_name_without_a_path_is_refused():
    with pytest.raises(SettingsError, match="has no path"):
        choose_adapters(["polite="])
