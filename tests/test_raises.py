"""Every place that raises an error of lorakit's own is named in a test by the words of its message."""

import importlib.util
import sys

import pytest
from conftest import ROOT

specification = importlib.util.spec_from_file_location("list_raises", ROOT / "scripts" / "list_raises.py")
list_raises = sys.modules["list_raises"] = importlib.util.module_from_spec(specification)
specification.loader.exec_module(list_raises)
PLACES = list(list_raises.places())

# Places whose test holds a single word of them, or their whole effect, by the beginning of their text.
BY_OTHER_WORDS = {
    "lorakit/api.py LoadedModel.generate": "tests/test_api.py",
    "lorakit/api.py LoadedModel.train": "tests/test_api.py",
    "lorakit/api.py _conversation": "tests/test_api.py",
    "lorakit/cli/failures.py fault_of_surroundings": "tests/cli/test_failures.py",
    "lorakit/data_processing/bounded.py within_limits": "tests/data_processing/test_bounded.py",
    "lorakit/data_processing/turns.py": "tests/bad_input_cases.py",
    "lorakit/data_processing/tool_calls.py _call": "tests/hostile_data.py",
    "lorakit/data_processing/images.py ImageFormat.__init__": "tests/data_processing/test_images.py",
    "lorakit/data_processing/images.py ImageFormat._measured": "tests/data_processing/test_images.py",
    "lorakit/data_processing/images.py _open": "tests/data_processing/test_images.py",
    "lorakit/data_processing/images.py _read": "tests/data_processing/test_images.py",
    "lorakit/data_processing/images.py resolve_image": "tests/data_processing/test_images.py",
    "lorakit/export/gguf_adapter.py": "tests/export/test_gguf_adapter.py",
    "lorakit/export/gguf_family.py": "tests/bad_export_cases.py",
    "lorakit/inference/session.py run: image:": "tests/bad_input_cases.py",
    "lorakit/model_config/adapter_choice.py _read": "tests/model_config/test_adapter_choice.py",
    "lorakit/model_config/adapter_settings.py": "tests/hostile_adapters.py",
    "lorakit/model_config/layer_names.py": "tests/model_config/test_layer_names.py",
    "lorakit/model_config/config_bounds.py": "tests/hostile_models.py",
    "lorakit/model_config/quantization.py": "tests/model_config/test_quantization.py",
    "lorakit/model_config/record.py": "tests/bad_input_cases.py",
    "lorakit/model_config/source.py": "tests/hostile_models.py",
    "lorakit/runs/folder.py locked": "tests/runs/test_folder.py",
    "lorakit/train/resuming.py find_earlier_run": "tests/train/test_training.py",
}
# What only another machine, or a fault of lorakit itself, leads to.
NOT_HERE = {
    "lorakit/data_processing/tool_calls.py as_json": "values that JSON has not, from Parquet or datasets",
    "lorakit/engine/backends/cpu/build.py": "PyTorch of another system, or other threads than GNU's",
    "lorakit/export/merging.py read_plainly": "lorakit would have written a model with a tensor less",
    "lorakit/train/preparing.py gather": "FSDP, which wants several processes",
}


@pytest.fixture(scope="module")
def tests():
    return list_raises.test_files()


def is_listed(place, listed):
    return any(place.name.startswith(beginning) for beginning in listed)


def test_there_are_places_to_look_at():
    assert len(PLACES) > 200
    assert {"SettingsError", "DataError", "ModelError", "AdapterError", "RunError"} <= {p.error for p in PLACES}


def test_every_place_is_named_by_a_test(tests):
    unnamed = [
        f"{place.name} ({place.file}:{place.line})"
        for place in PLACES
        if not is_listed(place, {**BY_OTHER_WORDS, **NOT_HERE}) and not list_raises.named_in(place, tests)
    ]
    assert unnamed == []


def test_the_tests_that_are_said_to_name_them_are_there():
    for beginning, file in BY_OTHER_WORDS.items():
        assert any(place.name.startswith(beginning) for place in PLACES), beginning
        assert (ROOT / file).is_file(), file


def test_words_of_a_message_are_found_and_others_are_not():
    place = list_raises.Place("x.py", 1, "f", "DataError", ("has more rows than anybody wants",))
    assert list_raises.named_in(place, {"a": "it has more rows than that"}) == "a"
    assert list_raises.named_in(place, {"a": "has, more: nothing"}) is None
