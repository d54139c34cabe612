"""The recorded first hour is one that can be had: the script that wrote it is run again (slow)."""

import importlib.util
import re

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow
_specification = importlib.util.spec_from_file_location("hour", ROOT / "scripts" / "record_first_hour.py")
hour = importlib.util.module_from_spec(_specification)
_specification.loader.exec_module(hour)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    return hour.environment_with_wheel(tmp_path_factory.mktemp("hour"))


RECORDED = [language for language, name in hour.PAGES.items() if (ROOT / "docs" / name).is_file()]


@pytest.mark.parametrize("language", RECORDED)
def test_the_first_hour_goes_as_it_is_written(programs, tmp_path, language):
    found = hour.record(language, programs, tmp_path)
    assert {name: code for name, (code, _) in found.items() if code != 0} == {"mistake": 2}
    assert len(found) + 1 <= 12
    written = (ROOT / "docs" / hour.PAGES[language]).read_text(encoding="utf-8")
    commands = re.findall(r"^\$ (lorakit .*)$", written, re.MULTILINE)
    assert commands == re.findall(r"^\$ (lorakit .*)$", hour.page(language, found), re.MULTILINE)
    for _, text in found.values():
        assert "internal error" not in text
        assert not re.search(r"triton not found|Failed to load|Traceback", text)
        for command in re.findall(r"^  (lorakit .*)$", text, re.MULTILINE):
            assert command.startswith("lorakit --task ")
