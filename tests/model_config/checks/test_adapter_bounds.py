"""Numbers that are none are found in every format, and large sums of sound ones are not taken for them."""

import pytest
import torch

from lorakit.model_config.checks.adapter_bounds import is_finite

FORMATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", FORMATS)
def test_a_number_that_is_none_is_found_in_every_format(dtype):
    sound = torch.linspace(-1, 1, 1000).to(dtype)
    assert is_finite(sound)
    bad = torch.linspace(-1, 1, 1000)
    bad[517] = float("nan")
    assert not is_finite(bad.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2])
@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_an_endless_number_is_found(dtype, value):
    bad = torch.ones(1000)
    bad[3] = value
    assert not is_finite(bad.to(dtype))


def test_a_sum_beyond_all_numbers_is_no_fault_of_its_parts():
    assert is_finite(torch.full((1000,), torch.finfo(torch.float32).max))
    assert is_finite(torch.full((1000,), torch.finfo(torch.float16).max, dtype=torch.float16))


def test_whole_numbers_and_empty_tensors_are_finite():
    assert is_finite(torch.tensor([1, 2]))
    assert is_finite(torch.tensor([]))
    assert is_finite(torch.empty(3, device="meta"))
