import pytest
import torch

from lorakit.engine import choose_device, choose_dtype
from lorakit.engine import device as device_module

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_auto_measures_on_a_cpu_and_says_so(monkeypatch):
    monkeypatch.setattr(device_module, "_bfloat16_speedup", lambda: 4.0)
    choice = choose_dtype("auto", CPU)
    assert (choice.name, choice.reason) == ("bfloat16", "cpu: measured 4.0x float32 on this machine")


def test_a_cpu_without_fast_bfloat16_computes_in_float32(monkeypatch):
    monkeypatch.setattr(device_module, "_bfloat16_speedup", lambda: 0.4)
    choice = choose_dtype("auto", CPU)
    assert choice.dtype is torch.float32
    assert "only 0.4x" in choice.reason


def test_float16_on_a_cpu_is_replaced_with_a_warning(monkeypatch):
    monkeypatch.setattr(device_module, "_bfloat16_speedup", lambda: 0.4)
    choice = choose_dtype("float16", CPU)
    assert choice.dtype is torch.float32
    assert "float16 is replaced with float32" in choice.warning


@pytest.mark.parametrize(("is_supported", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_on_a_gpu_asks_the_hardware(monkeypatch, is_supported, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: is_supported)
    assert choose_dtype("auto", GPU).dtype is dtype


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_what_is_asked_for_is_given(name):
    choice = choose_dtype(name, CPU)
    assert (choice.name, choice.warning) == (name, None)


def test_float16_on_a_gpu_is_given():
    assert choose_dtype("float16", GPU).dtype is torch.float16


def test_the_measurement_is_a_plausible_ratio():
    assert 0.001 < device_module._bfloat16_speedup() < 1000


def test_a_device_is_found():
    assert choose_device().type in {"cpu", "cuda", "mps"}


@pytest.mark.parametrize(("local_rank", "gpu"), [("", 0), ("0", 0), ("1", 1), ("3", 1)])
def test_each_process_of_a_host_takes_its_own_gpu(monkeypatch, local_rank, gpu):
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: chosen[-1])
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    assert choose_device() == torch.device("cuda", gpu)
