"""Messages in another language: complete, with the same fields, up to date, and never a wrong one."""

import importlib.util
import re
import string

import pytest
from conftest import ROOT

from lorakit import language
from lorakit.cli import main
from lorakit.language import _catalogue, error_lines, language_of_environment, speak_language, translated

_specification = importlib.util.spec_from_file_location("messages", ROOT / "scripts" / "messages.py")
messages = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(messages)
FIELD = re.compile(r"\{([a-z][a-z0-9_]*_\d+)\}")


@pytest.fixture
def chinese():
    speak_language("zh")
    yield
    speak_language("en")


def pairs():
    return language.read_catalogue((ROOT / "lorakit" / "language" / "zh.mo").read_bytes())


def test_every_message_of_the_covered_rooms_is_translated_and_none_is_stale():
    assert set(pairs()) == set(messages.all_templates())
    assert all(pairs().values())


def test_the_compiled_catalogue_is_that_of_its_source():
    assert messages.compiled("zh") == (ROOT / "lorakit" / "language" / "zh.mo").read_bytes()


def test_every_translation_has_the_fields_of_its_message():
    for source, target in pairs().items():
        wanted, found = set(FIELD.findall(source)), set(FIELD.findall(target))
        assert found <= wanted, source
        assert wanted - found <= {"value_3"} or wanted == found, source


def test_what_is_made_from_a_template_finds_that_template(chinese):
    catalogue = _catalogue("zh")
    for source, target in pairs().items():
        names = FIELD.findall(source)
        values = {name: f"X{number}9" for number, name in enumerate(names)}
        text = FIELD.sub(lambda field, values=values: values[field[1]], source)
        expected = FIELD.sub(lambda field, values=values: values[field[1]], target)
        found = catalogue.whole(text)
        assert found is not None, source
        assert found.text == expected, source


def test_what_is_no_message_stays_as_it_is(chinese):
    for text in ("", "x", "data/train.json", "The quick brown fox jumps.", "请问？", string.punctuation, "a: b: c"):
        assert translated(text) == text


def test_places_stay_and_what_follows_is_translated(chinese):
    assert translated("config.yaml line 3: lora_rnak is not a setting") == "config.yaml line 3: 没有 lora_rnak 这个设置"
    assert translated("  hint: did you mean lora_r?") == "  提示: 您是指 lora_r 吗？"


def test_an_error_carries_its_english_first_line(chinese):
    assert error_lines("--set x: x is not a setting\nmore", "did you mean y?") == [
        "错误: --set x: 没有 x 这个设置",
        "more",
        "提示: 您是指 y 吗？",
        "(error: --set x: x is not a setting)",
    ]


def test_in_english_an_error_is_what_it_was():
    assert error_lines("a: b", "c") == ["error: a: b", "hint: c"]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "en"),
        ({"LANG": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_TW.UTF-8"}, "zh"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
    ],
)
def test_the_environment_says_which(variables, expected):
    assert language_of_environment(variables) == expected


def test_the_command_line_speaks_chinese_from_its_first_fault_on(capsys):
    assert main(["--task", "train", "--lora_rank", "4", "--language", "zh"]) == 2
    said = capsys.readouterr().err
    assert "错误: 命令行: 没有 --lora_rank 这个参数" in said
    assert "(error: command line: --lora_rank is not a flag)" in said
    speak_language("en")


def test_help_is_chinese_where_the_environment_is(monkeypatch, capsys):
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "任务：" in said
    assert "训练数据的遍数" in said
    speak_language("en")
