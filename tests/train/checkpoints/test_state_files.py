"""States survive a file without a pickle."""

import math
import random

import pytest
import torch
from safetensors import safe_open

from lorakit.train.checkpoints.state_files import read_state, write_state


def same(first, second):
    if isinstance(first, torch.Tensor):
        return first.dtype is second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return type(first) is type(second) and all(same(*pair) for pair in zip(first, second, strict=True))
    return type(first) is type(second) and (first == second or (math.isnan(first) and math.isnan(second)))


STATES = {
    "optimizer": {
        "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3)}},
        "param_groups": [{"lr": 0.1}],
    },
    "half": {"a": torch.randn(4).bfloat16(), "b": torch.randn(4).half(), "c": torch.tensor([], dtype=torch.int64)},
    "plain": {"none": None, "yes": True, "one": 1, "text": "学习", "list": [1, (2.5, None)], 5: {}},
    "numbers": [math.inf, -math.inf, math.nan, 0.1 + 0.2, 10**30],
    "random": (random.Random(1).getstate(), torch.get_rng_state()),
    "a view": (torch.arange(10)[::2], torch.arange(6).view(2, 3).T),
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_is_read_as_it_was(tmp_path, name):
    write_state(tmp_path / "s.safetensors", STATES[name])
    assert same(STATES[name], read_state(tmp_path / "s.safetensors"))


def test_the_same_memory_twice_is_written_twice(tmp_path):
    tensor = torch.ones(3)
    write_state(tmp_path / "s.safetensors", [tensor, tensor])
    assert same([tensor, tensor], read_state(tmp_path / "s.safetensors"))


def test_the_file_is_plain_safetensors(tmp_path):
    write_state(tmp_path / "s.safetensors", {"a": torch.ones(2)})
    with safe_open(tmp_path / "s.safetensors", framework="pt") as opened:
        assert opened.metadata()["tree"] == '{"mapping": [["a", {"tensor": "0"}]]}'


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(TypeError, match="a function in a state"):
        write_state(tmp_path / "s.safetensors", {"a": same})
