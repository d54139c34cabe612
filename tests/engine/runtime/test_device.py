import pytest
import torch

from lorakit.engine import choose_device, choose_dtype
from lorakit.engine.backends import number_format
from lorakit.engine.backends.cpu import half_products
from lorakit.engine.backends.cpu.levels import VARIABLE
from lorakit.engine.runtime import processor

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_auto_measures_on_a_cpu_and_says_so(monkeypatch):
    monkeypatch.setattr(number_format, "_bfloat16_speedup", lambda: 4.0)
    choice = choose_dtype("auto", CPU)
    assert (choice.name, choice.reason) == ("bfloat16", "cpu: measured 4.0x float32 on this machine")


@pytest.fixture
def measured(monkeypatch):
    """Let the machine be one that measures so many times the speed of float32."""

    def machine(bfloat16, half=None):
        monkeypatch.setattr(number_format, "_bfloat16_speedup", lambda: bfloat16)
        monkeypatch.setattr(number_format, "half_fault", lambda: "no such instructions" if half is None else None)
        monkeypatch.setattr(number_format, "_half_speedup", lambda: half)

    return machine


@pytest.mark.parametrize("half", [None, 1.1])
def test_a_cpu_without_a_fast_format_computes_in_float32(measured, half):
    measured(0.4, half)
    choice = choose_dtype("auto", CPU)
    assert (choice.dtype, choice.weights, choice.name) == (torch.float32, torch.float32, "float32")
    assert "only 0.4x" in choice.reason


def test_a_format_that_is_computed_in_software_is_called_so(measured):
    measured(0.004)
    assert choose_dtype("auto", CPU).reason == (
        "cpu: bfloat16 has no instructions here, and takes 250 times as long as float32"
    )


def test_a_cpu_with_fast_float16_holds_its_weights_in_it(measured):
    measured(0.4, 1.7)
    choice = choose_dtype("auto", CPU)
    assert (choice.dtype, choice.weights, choice.name) == (torch.float32, torch.float16, "float16")
    assert choice.reason == "cpu: products measured 1.7x float32 on this machine; sums in float32"


def test_fast_bfloat16_comes_first(measured):
    measured(4.0, 1.7)
    assert choose_dtype("auto", CPU).name == "bfloat16"


def test_where_weights_must_be_of_one_format_they_are(measured):
    measured(0.4, 1.7)
    assert choose_dtype("auto", CPU, may_be_half=False).weights is torch.float32
    assert "is replaced with float32: not for this" in choose_dtype("float16", CPU, may_be_half=False).warning


def test_float16_on_a_cpu_is_given_where_it_is_fast(measured):
    measured(0.4, 1.7)
    choice = choose_dtype("float16", CPU)
    assert (choice.dtype, choice.weights, choice.warning) == (torch.float32, torch.float16, None)


def test_elsewhere_float16_on_a_cpu_is_replaced_with_a_warning(measured):
    measured(0.4)
    choice = choose_dtype("float16", CPU)
    assert choice.weights is torch.float32
    assert choice.warning == "torch_dtype float16 is replaced with float32: no such instructions"


def test_a_processor_without_the_instructions_says_so(monkeypatch, tmp_path):
    other = tmp_path / "cpuinfo"
    other.write_text("vendor_id : GenuineIntel\nmodel name : Another\nflags : fpu avx512f avx512_bf16\n")
    monkeypatch.setattr(processor, "_LINUX_FILE", other)
    monkeypatch.delenv(VARIABLE, raising=False)
    half_products._kernel_or_fault.cache_clear()
    try:
        assert half_products.half_fault() == "the processor cannot multiply float16"
    finally:
        half_products._kernel_or_fault.cache_clear()


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
    assert 0.001 < number_format._bfloat16_speedup() < 1000


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
