"""What README and docs show is what there is."""

import importlib
import json
import re
import shlex

import pytest
import yaml
from conftest import ROOT

from lorakit.cli.arguments import TASKS, parse_arguments
from lorakit.config import load_config
from lorakit.config.settings import Config

PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]


def code_blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands():
    """Every `python main.py ...` of a code block or table of the two READMEs."""
    found = set()
    for name in ("README.md", "README.zh-CN.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        found |= set(re.findall(r"python main\.py [^`\n]*", text.replace("\\|", "|")))
    return sorted(found)


@pytest.mark.parametrize("command", commands())
def test_every_command_shown_is_understood(command):
    arguments = parse_arguments(shlex.split(command.split(" #")[0])[2:])
    assert arguments.task in TASKS
    load_config(str(ROOT / arguments.config_file), arguments.flags, arguments.assignments)


def test_there_are_commands_to_check():
    assert len(commands()) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_files_and_modules_named_in_the_architecture_exist():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+/[a-z_/]+\.(?:py|md|json))`", text)
    assert len(named) > 20
    for path in named:
        assert any(ROOT.glob(path)) or any((ROOT / "lorakit").rglob(path)), path
    rooms = {path.name for path in (ROOT / "lorakit").iterdir() if path.is_dir()}
    for name in re.findall(r"`([a-z_]+(?:\.\w+)+)", text):
        room, *inner = name.split(".")
        if room in rooms and inner != ["html"]:
            here, where = importlib.import_module(f"lorakit.{room}"), f"lorakit.{room}"
            for part in inner:
                where += f".{part}"
                here = getattr(here, part, None) or importlib.import_module(where)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "README.zh-CN.md"], ids=lambda page: page.name)
def test_rows_shown_are_valid_json(page):
    for block in code_blocks(page, "json"):
        assert all(set(row) == {"text", "target"} for row in json.loads(block))


@pytest.mark.parametrize("page", ["README", "docs/data"])
def test_both_languages_show_the_same_code(page):
    english, chinese = (ROOT / f"{page}.md", ROOT / f"{page}.zh-CN.md")
    for language in ("sh", "json", "python", "text"):
        assert code_blocks(english, language) == code_blocks(chinese, language)
    structure = [re.findall(r"^(#+|\|)", page.read_text(encoding="utf-8"), re.MULTILINE) for page in (english, chinese)]
    assert structure[0] == structure[1]


def test_the_dialogue_shown_is_a_training_row():
    rows = json.loads((ROOT / "data" / "train.json").read_text(encoding="utf-8"))
    [dialogue] = [block for block in code_blocks(ROOT / "README.md", "text") if "输入文本" in block]
    assert f"输入文本: {rows[0]['text']}\n输出结果: {rows[0]['target']}\n" in dialogue


def test_settings_named_in_yaml_blocks_exist():
    for page in PAGES:
        for block in code_blocks(page, "yaml"):
            assert set(yaml.safe_load(block)) <= set(Config.model_fields)


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.name)
def test_a_configuration_shows_the_command_that_uses_it(file):
    text = file.read_text(encoding="utf-8")
    assert f"python main.py --config configs/{file.name} --task train" in text
    for device in ("# CPU", "# 8 GB GPU", "# 16 GB GPU"):
        assert device in text


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_the_first_thing_seen_are_pictures_of_the_terminal_the_preview_and_the_report(name):
    opening = (ROOT / name).read_text(encoding="utf-8").partition("\n## ")[0]
    pictures = re.findall(r"!\[[^\]]+\]\((docs/pictures/[^)]+)\)", opening)
    assert [picture.rpartition("/")[2] for picture in pictures] == ["training.svg", "preview.svg", "report.png"]
    for picture in pictures:
        assert 5_000 < (ROOT / picture).stat().st_size < 200_000
