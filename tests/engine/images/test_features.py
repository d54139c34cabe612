"""Where features are kept: in memory, on disk, nowhere."""

from pathlib import Path

import pytest
import torch

from lorakit.engine.images.features import FeatureCache

SIZE_BYTES = 40


def features(number):
    return (torch.full((4, 2), float(number)), torch.full((2,), float(number)))


@pytest.fixture
def computed():
    return []


def fetch(cache, number, computed):
    def compute():
        computed.append(number)
        return features(number)

    found = cache.get(number, compute)
    assert all(torch.equal(*pair) for pair in zip(found, features(number), strict=True))


def test_each_place_is_filled_before_the_next_and_the_rest_is_computed_anew(computed):
    cache = FeatureCache(memory_bytes=2 * SIZE_BYTES, disk_bytes=SIZE_BYTES)
    for _ in range(3):
        for number in range(4):
            fetch(cache, number, computed)
    assert computed == [0, 1, 2, 3, 3, 3]
    assert [number in cache for number in range(4)] == [True, True, True, False]


def test_features_of_every_number_format_come_back_from_disk_as_they_were(computed):
    cache = FeatureCache(0, 1000)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        wanted = torch.randn(3, 5, dtype=torch.float32).to(dtype)
        cache.get(dtype, lambda wanted=wanted: (wanted,))
        (found,) = cache.get(dtype, lambda: pytest.fail("computed anew"))
        assert found.dtype is dtype
        assert torch.equal(found, wanted)


def test_the_files_are_gone_with_the_cache(computed):
    cache = FeatureCache(0, 1000)
    fetch(cache, 1, computed)
    folder = Path(cache._folder.name)
    assert [file.suffix for file in folder.iterdir()] == [".safetensors"]
    del cache
    assert not folder.exists()


def test_a_disk_that_cannot_be_written_costs_time_only(computed, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    cache = FeatureCache(0, 1000)
    for _ in range(2):
        fetch(cache, 7, computed)
    assert computed == [7, 7]


def test_an_error_in_computing_leaves_nothing_behind():
    cache = FeatureCache(1000, 0)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: 1 / 0)
    assert "a" not in cache


def test_features_first_wanted_by_a_validation_can_be_trained_on():
    cache = FeatureCache(1000, 0)
    weight = torch.ones(2, requires_grad=True)
    with torch.inference_mode():
        cache.get(1, lambda: (torch.arange(2.0) + 1,))
    (found,) = cache.get(1, lambda: pytest.fail("they are kept"))
    (found * weight).sum().backward()
    assert weight.grad.tolist() == [1, 2]
