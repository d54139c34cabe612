"""Every place that raises an error of lorakit's own is named in a test by the words of its message."""

import importlib.util

import pytest
from conftest import ROOT

specification = importlib.util.spec_from_file_location("list_raises", ROOT / "scripts" / "list_raises.py")
list_raises = importlib.util.module_from_spec(specification)
__import__("sys").modules["list_raises"] = list_raises
specification.loader.exec_module(list_raises)
PLACES = list(list_raises.places())


@pytest.fixture(scope="module")
def tests():
    return list_raises.test_files()


def test_there_are_places_to_look_at():
    assert len(PLACES) > 200
    assert {"SettingsError", "DataError", "ModelError", "AdapterError", "RunError"} <= {p.error for p in PLACES}


def test_every_place_is_named_by_a_test(tests):
    unnamed = [
        f"{place.name} ({place.file}:{place.line})" for place in PLACES if not list_raises.named_in(place, tests)
    ]
    assert unnamed == []
