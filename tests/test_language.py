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
ENGLISH = re.compile(r"\b[A-Za-z]{2,} [a-z]{2,} [a-z]{2,}\b")  # three words in a row


@pytest.fixture
def chinese():
    speak_language("zh")
    yield
    speak_language("en")


def pairs():
    return language.read_catalogue((ROOT / "lorakit" / "language" / "zh.mo").read_bytes())


def test_every_message_of_the_package_is_translated_and_none_is_stale():
    assert set(pairs()) == set(messages.all_templates())
    assert all(pairs().values())


def test_every_exception_stands_in_the_code():
    assert all((messages.PACKAGE / name).is_file() for name in messages.FILES_WITHOUT_MESSAGES)
    assert set(messages.looked_through()) >= messages.NOT_SHOWN


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('f"{name}: holds no rows"', ["{name_0}: holds no rows"]),
        ('x = "}{ words that stand between braces"', ["}{ words that stand between braces"]),
        ('call("between <b> and </b> it stands")', ["between <b> and </b> it stands"]),
        ('"""What a module says of itself."""', []),
        ('re.compile("some words (here)")', []),
        ('cast("str | None", x)', []),
        ('def f(x: "int | None") -> "str | None": ...', []),
        ('x = "words that are split".split()', []),
        ('x == "two words"', []),
        ('x = "{% if this %} then {{ that }}"', []),
        ('x = "import this\\nprint(all that is)"', []),
        ('x = "<b>some bold words</b>"', []),
        ('x = "--push_to owner/name"', []),
        ('x = "word"', []),
    ],
)
def test_messages_are_told_from_other_texts(tmp_path, source, expected):
    file = tmp_path / "module.py"
    file.write_text(source, encoding="utf-8")
    assert [template for template, _ in messages.templates_of(file)] == expected


def test_the_compiled_catalogue_is_that_of_its_source():
    assert messages.compiled("zh") == (ROOT / "lorakit" / "language" / "zh.mo").read_bytes()


def test_every_translation_has_the_fields_of_its_message():
    for source, target in pairs().items():
        wanted, found = set(FIELD.findall(source)), set(FIELD.findall(target))
        assert found <= wanted, source
        assert wanted - found <= {"value_3"} or wanted == found, source


def test_names_of_settings_and_flags_stay():
    name = re.compile(r"--[a-z_]+|[a-z]+_[a-z_]+")
    for source, target in pairs().items():
        lost = [found for found in name.findall(FIELD.sub("", source)) if found not in target]
        assert lost in ([], ["--flag"]), source  # of the usage line


def test_what_is_made_from_a_template_finds_that_template(chinese):
    catalogue = _catalogue("zh")
    for source, target in pairs().items():
        names = FIELD.findall(source)
        values = {name: f"X{number}9" for number, name in enumerate(names)}
        text = FIELD.sub(lambda field, values=values: values[field[1]], source)
        expected = FIELD.sub(lambda field, values=values: values[field[1]], target)
        assert catalogue.shown(text, catalogue.whole) == expected, source


def test_what_is_no_message_stays_as_it_is(chinese):
    for text in ("", "x", "data/train.json", "The quick brown fox jumps.", "请问？", string.punctuation, "a: b: c"):
        assert translated(text) == text


def test_places_stay_and_what_follows_is_translated(chinese):
    assert translated("config.yaml line 3: lora_rnak is not a setting") == "config.yaml line 3: 没有 lora_rnak 这个设置"
    assert translated("  hint: did you mean lora_r?") == "  提示: 您是指 lora_r 吗？"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("has no answer; leave it out", "没有回答；请去掉它"),  # messages in a row
        ("has no answer; something else", "has no answer; something else"),
        ("question, answer", "question, answer"),  # names of fields
        ('not used: "passage" (1 row) is not used; ignore_fields: [passage] leaves it out',
         '没有用到："passage"（1 行）没有用到；ignore_fields: [passage] 可将它去掉'),
        ("a.json: x is not a setting", "a.json: 没有 x 这个设置"),  # more of it is fixed than of "{}: {} is not {}"
        ("model_name_or_path: there is no folder x\nsecond line", "model_name_or_path: 没有文件夹 x\nsecond line"),
        ("float32 (as set in torch_dtype); the adapter is float32",
         "float32（按 torch_dtype 的设置）；适配器为 float32"),
    ],
)  # fmt: skip
def test_the_reading_with_most_fixed_characters_is_taken(chinese, text, expected):
    assert translated(text) == expected


def test_a_text_that_can_be_read_in_many_ways_takes_a_bounded_search(chinese, monkeypatch):
    searches = []
    of_template = language._Catalogue._of_template
    monkeypatch.setattr(language._Catalogue, "_of_template", lambda *given: searches.append(1) or of_template(*given))
    fields = "; ".join(f"not used: {number} is not x, y z: w {number}" for number in range(20))
    for text in (fields, " is not ".join([fields] * 5), "a b: " * 500):
        searches.clear()
        assert translated(text)
        assert len(searches) <= language._MOST_PIECES


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


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--task"],
        ["--task", "fly"],
        ["--task", "train", "--lora_rank", "4"],
        ["--task", "train", "--config", "nowhere.yaml"],
        ["--task", "train", "--config", "broken.yaml"],
        ["--task", "train", "--config", "twice.yaml"],
        ["--task", "train", "--set", "value"],
        *(
            ["--task", "train", "--set", assignment]
            for assignment in (
                "lora_r=x",
                "lora_r=0",
                "learning_rate=fast",
                "torch_dtype=int",
                "thinking=perhaps",
                "target_modules=3",
                "template_date=x",
                "encoding=none",
                "temperature=0.0001",
                "image=[3]",
                "train_file=3",
                "jsonl=3",
                "trainer_args=3",
                "trainer_args={seed: 3}",
                "trainer_args={num_train_epoch: 3}",
                "trainer_args={report_to: {x: 1}, weight_decay: x}",
                "question=3",
                "map_fields={x: 3}",
                "output_dir=[",
                "output_dir=!!python/name:os",
            )
        ),
    ],
    ids=" ".join,
)
def test_faults_of_a_command_line_are_chinese_with_their_english_first_line(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("seed: 1\n")
    (tmp_path / "broken.yaml").write_text("lora_r: 3\n a: b\n")
    (tmp_path / "twice.yaml").write_text("seed: 3\nseed: 4\n")
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    assert main(argv) == 2
    *said, last = capsys.readouterr().err.strip().splitlines()
    speak_language("en")
    assert re.fullmatch(r"\(error: .*\)", last)
    assert said[0].startswith("错误: ")
    assert [line for line in said if ENGLISH.search(line)] == []
