"""What prepares pictures belongs to its model, and a merged model keeps the sizes that it was trained with."""

import json

import pytest
from vision import save_vision_model

from lorakit.errors import ModelError
from lorakit.model_config import load_image_processor, locate_model
from lorakit.model_config.image_processor import (
    PROCESSOR_FILE,
    trained_pixels,
    warn_of_other_pixels,
    write_trained_pixels,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_vision_model(tmp_path_factory.mktemp("vision") / "model")


@pytest.fixture
def settings(folder):
    file = folder / PROCESSOR_FILE
    own = file.read_text(encoding="utf-8")
    yield json.loads(own), lambda changed: file.write_text(json.dumps(changed), encoding="utf-8")
    file.write_text(own, encoding="utf-8")


def test_the_model_s_own_is_loaded(folder):
    processor, token = load_image_processor(locate_model(str(folder), "huggingface"))
    assert processor.patch_size == 8
    assert token == json.loads((folder / "config.json").read_text(encoding="utf-8"))["image_token_id"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"do_resize": False}, "do_resize: false"),
        ({"patch_size": 16}, "patch_size: 16, the model's vision tower patch_size: 8"),
        ({"merge_size": 1}, "merge_size: 1, the model's vision tower spatial_merge_size: 2"),
        ({"temporal_patch_size": 1}, "temporal_patch_size: 1"),
    ],
)
def test_one_of_another_model_is_refused_by_name(folder, settings, change, fault):
    own, write = settings
    write(own | change)
    with pytest.raises(ModelError, match=fault):
        load_image_processor(locate_model(str(folder), "huggingface"))


def test_a_merged_model_s_folder_asks_for_the_sizes_of_its_training(folder, settings, capsys):
    write_trained_pixels(folder, (256, 4096))
    processor, _ = load_image_processor(locate_model(str(folder), "huggingface"))
    assert (processor.size["shortest_edge"], processor.size["longest_edge"]) == (256, 4096)
    assert trained_pixels(folder) == (256, 4096)
    warn_of_other_pixels(folder, (256, 4096))
    assert capsys.readouterr().err == ""
    warn_of_other_pixels(folder, (256, 1024))
    assert "in its training of 256 to 4096: set min_pixels and max_pixels" in capsys.readouterr().err.replace("\n", " ")
