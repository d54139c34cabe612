"""Every place that raises an error is named in a test; every call that can raise one is caught, here or there."""

import importlib.util
import sys

import pytest
from conftest import ROOT

specification = importlib.util.spec_from_file_location("list_raises", ROOT / "scripts" / "list_raises.py")
list_raises = sys.modules["list_raises"] = importlib.util.module_from_spec(specification)
specification.loader.exec_module(list_raises)

# Places whose test holds a single word of them, or their whole effect, by the beginning of their text.
BY_OTHER_WORDS = {
    "lorakit/api.py LoadedModel.generate": "tests/test_api.py",
    "lorakit/api.py LoadedModel.train": "tests/test_api.py",
    "lorakit/api.py _conversation": "tests/test_api.py",
    "lorakit/cli/failures.py fault_of_surroundings": "tests/cli/test_failures.py",
    "lorakit/data_processing/templates/bounded.py within_limits": "tests/data_processing/templates/test_bounded.py",
    "lorakit/data_processing/shapes/turns.py": "tests/bad_input_cases.py",
    "lorakit/data_processing/calls/tool_calls.py _call": "tests/hostile_data.py",
    "lorakit/data_processing/images.py ImageFormat.__init__": "tests/data_processing/test_images.py",
    "lorakit/data_processing/images.py ImageFormat._measured": "tests/data_processing/test_images.py",
    "lorakit/data_processing/images.py _open": "tests/data_processing/test_images.py",
    "lorakit/data_processing/images.py _read": "tests/data_processing/test_images.py",
    "lorakit/data_processing/images.py resolve_image": "tests/data_processing/test_images.py",
    "lorakit/export/gguf/adapter.py": "tests/export/gguf/test_adapter.py",
    "lorakit/export/gguf/family.py": "tests/bad_export_cases.py",
    "lorakit/inference/session.py run: image:": "tests/bad_input_cases.py",
    "lorakit/model_config/adapters/choice.py _read": "tests/model_config/adapters/test_choice.py",
    "lorakit/model_config/adapters/settings.py": "tests/hostile_adapters.py",
    "lorakit/model_config/adapters/layer_names.py": "tests/model_config/adapters/test_layer_names.py",
    "lorakit/model_config/config_bounds.py": "tests/hostile_models.py",
    "lorakit/model_config/weights/quantization.py": "tests/model_config/weights/test_quantization.py",
    "lorakit/model_config/adapters/record.py": "tests/bad_input_cases.py",
    "lorakit/model_config/source.py": "tests/hostile_models.py",
    "lorakit/runs/folder.py locked": "tests/runs/test_folder.py",
    "lorakit/train/checkpoints/resuming.py find_earlier_run": "tests/train/test_training.py",
}
# What only another machine, or a fault of lorakit itself, leads to.
NOT_HERE = {
    "lorakit/data_processing/calls/tool_calls.py as_json": "values that JSON has not, from Parquet or datasets",
    "lorakit/engine/backends/cpu/build.py": "PyTorch of another system, or other threads than GNU's",
    "lorakit/export/merging.py read_plainly": "lorakit would have written a model with a tensor less",
    "lorakit/train/setup/preparing.py gather": "FSDP, which wants several processes",
}


# Calls that raise what they like, and that their own function does not catch: why a stranger's file does no harm there.
CAUGHT_ELSEWHERE = {
    "a file of lorakit's own, of its package or of the system": (
        "lorakit/agreement/kept.py _own_code",
        "lorakit/cli/__init__.py _open_streams",
        "lorakit/cli/starting.py run",
        "lorakit/config/trainer_arguments.py _annotations",
        "lorakit/data_processing/templates/bounded.py _limited_memory",
        "lorakit/data_processing/tokens/columns.py",
        "lorakit/data_processing/kept_rows.py _code",
        "lorakit/engine/backends/cpu/build.py",
        "lorakit/engine/images/features.py _read",
        "lorakit/language/__init__.py _catalogue",
        "lorakit/outgoing.py let_go",
        "lorakit/report/surroundings.py processor_name",
    ),
    "what this very task has written, or has read before": (
        "lorakit/evaluate/reporting.py _answered",
        "lorakit/export/gguf_files.py",
        "lorakit/export/gguf/reading.py read_gguf",
        "lorakit/export/merging.py",
        "lorakit/export/peft_files.py _read",
        "lorakit/model_config/adapters/adapter.py _check_complete",
        "lorakit/model_config/adapters/adapter.py weights_hash",
        "lorakit/model_config/image_processor.py write_trained_pixels",
        "lorakit/runs/records.py RecordLog.append",
        "lorakit/train/planning/advising.py run",
    ),
    "a text that lorakit or a tokenizer has written as JSON": (
        "lorakit/data_processing/templates/chat_template.py ChatTemplate._applied",
        "lorakit/data_processing/templates/text_encoding.py TextEncoder._literal_tokenizer",
        "lorakit/data_processing/calls/tool_rendering.py",
        "lorakit/data_processing/templates/words.py steps_of",
        "lorakit/export/gguf/tokenizer.py _definition",
    ),
    "CallReader catches what answers lead to": ("lorakit/inference/text/tool_calls.py",),
    "the reader of rows catches it": ("lorakit/data_processing/kept_rows.py _content",),
    "the loading of an adapter catches it": (
        "lorakit/model_config/checks/adapter_bounds.py check_bounds",
        "lorakit/model_config/adapters/whole_embeddings.py",
    ),
    "the loading of a model catches it": (
        "lorakit/model_config/fingerprint.py",
        "lorakit/model_config/source.py tensor_headers",
        "lorakit/model_config/weights/stored_tensors.py",
        "lorakit/model_config/weights/widened.py",
    ),
    "the model's checksum is held to before": ("lorakit/model_config/starter.py _convert",),
    "the reading of a checkpoint catches it": (
        "lorakit/model_config/adapters/adapter.py load_adapter_tensors",
        "lorakit/train/checkpoints/state_files.py read_state",
    ),
}


@pytest.fixture(scope="module")
def tests():
    return list_raises.test_files()


@pytest.fixture(scope="module")
def places():
    return list(list_raises.places())


def is_listed(place, listed):
    return any(place.name.startswith(beginning) for beginning in listed)


def test_there_are_places_to_look_at(places):
    assert len(places) > 200
    assert {"SettingsError", "DataError", "ModelError", "AdapterError", "RunError"} <= {p.error for p in places}


def test_every_place_is_named_by_a_test(tests, places):
    unnamed = [
        f"{place.name} ({place.file}:{place.line})"
        for place in places
        if not is_listed(place, {**BY_OTHER_WORDS, **NOT_HERE}) and not list_raises.named_in(place, tests)
    ]
    assert unnamed == []


def test_the_tests_that_are_said_to_name_them_are_there(places):
    for beginning, file in BY_OTHER_WORDS.items():
        assert any(place.name.startswith(beginning) for place in places), beginning
        assert (ROOT / file).is_file(), file


def test_words_of_a_message_are_found_and_others_are_not():
    place = list_raises.Place("x.py", 1, "f", "DataError", ("has more rows than anybody wants",))
    assert list_raises.named_in(place, {"a": list_raises.words_of("it has more: rows than that")}) == "a"
    assert list_raises.named_in(place, {"a": list_raises.words_of("has, more: nothing")}) is None


def test_every_call_into_a_library_is_caught_where_it_stands_or_it_is_said_where():
    listed = dict.fromkeys(beginning for places in CAUGHT_ELSEWHERE.values() for beginning in places)
    edges = {edge.name for edge in list_raises.open_edges()}
    assert len(edges) > 40
    assert sorted(edge for edge in edges if not edge.startswith(tuple(listed))) == []
    assert [beginning for beginning in listed if not any(edge.startswith(beginning) for edge in edges)] == []
