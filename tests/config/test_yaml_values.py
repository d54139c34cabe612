import math

import pytest
import yaml

from lorakit.config.yaml_values import DuplicateKeyError, read_mapping, read_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 0.0005),
        ("1E3", 1000.0),
        ("-2.5e+1", -25.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("16", 16),
        ("'5e-4'", "5e-4"),
        ("1.2.3", "1.2.3"),
        ("5e", "5e"),
        ("[q_proj,v_proj]", ["q_proj", "v_proj"]),
        ("null", None),
        ("{save_steps: 3}", {"save_steps": 3}),
    ],
)
def test_values_are_read_as_a_user_means_them(text, value):
    read = read_value(text)
    assert read == value
    assert type(read) is type(value)


def test_infinity_is_a_number():
    assert read_value(".inf") == math.inf


def test_every_key_knows_its_line():
    mapping = read_mapping("# comment\nlora_r: 8\n\nseed: 1\n")
    assert mapping.values == {"lora_r": 8, "seed": 1}
    assert mapping.lines == {"lora_r": 2, "seed": 4}


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "outer: {x: 1, x: 2}"])
def test_a_duplicate_key_is_noticed_at_every_depth(text):
    [duplicate] = read_mapping(text).duplicates
    assert "stands twice (first on line 1)" in duplicate.problem


def test_a_duplicate_key_in_a_value_is_an_error():
    with pytest.raises(DuplicateKeyError, match="stands twice"):
        read_value("{x: 1, x: 2}")


def test_an_empty_file_is_an_empty_mapping():
    assert read_mapping("# nothing\n").values == {}


@pytest.mark.parametrize("text", ["- a\n- b", "just text", "a: [", "a: &x 1\nb: *y"])
def test_what_is_not_a_mapping_is_an_error(text):
    with pytest.raises(yaml.YAMLError):
        read_mapping(text)


def test_yaml_cannot_run_code():
    with pytest.raises(yaml.YAMLError):
        read_mapping("a: !!python/object/apply:os.system ['true']")
