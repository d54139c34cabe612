import math

import pytest
import yaml
from conftest import ROOT

from lorakit.config.editing import with_values


@pytest.mark.parametrize(
    ("text", "values", "changed"),
    [
        ("lora_r: 8\n", {"lora_r": 16}, "lora_r: 16\n"),
        ("lora_r: 8  # the rank\n", {"lora_r": 16}, "lora_r: 16  # the rank\n"),
        ("# lora_r: 4\nlora_r: 8\nseed: 1\n", {"lora_r": 16}, "# lora_r: 4\nlora_r: 16\nseed: 1\n"),
        ("a: 1\n", {"b": "auto"}, "a: 1\nb: auto\n"),
        ("targets:\n  - a\n  - b\nseed: 1\n", {"targets": "all-linear"}, "targets: all-linear\nseed: 1\n"),
        ("targets:\n- a\n- b\nseed: 1\n", {"targets": ["c"]}, "targets: [c]\nseed: 1\n"),
        ("file: x\n", {"file": None}, "file: null\n"),
        ("file: x\n", {"file": "a: b #c"}, "file: 'a: b #c'\n"),
    ],
)
def test_a_value_changes_and_all_else_stays(text, values, changed):
    assert with_values(text, values) == changed
    name, value = next(iter(values.items()))
    assert yaml.safe_load(changed)[name] == value


@pytest.mark.parametrize("rate", [2e-4, 1.5e-3, 6e-4, 0.001, 1e-5, 0.05, 123456.0, 3.3333333e-4])
def test_a_rate_is_written_as_a_person_would_and_read_as_it_was(rate):
    text = with_values((ROOT / "config.yaml").read_text(), {"learning_rate": rate})
    [line] = [line for line in text.splitlines() if line.startswith("learning_rate")]
    assert math.isclose(float(line.partition(": ")[2]), rate, rel_tol=1e-5)
    assert len(line) < 32
