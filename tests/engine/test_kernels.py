"""The C++ against the PyTorch operations that stand in for it, and what happens where there is no C++."""

import shutil
import stat

import pytest
import torch
from torch.nn.functional import cross_entropy

from lorakit.engine import choose_kernels, kernel_build
from lorakit.engine.attention import PackedRows
from lorakit.engine.kernels import kernels_for
from lorakit.engine.loss import TargetLoss
from lorakit.engine.pointwise import RmsNorm, Rotary, SwiGlu
from lorakit.engine.row_attention import RowAttention

CPU = torch.device("cpu")
FORMATS = {torch.float32: {"rtol": 1e-5, "atol": 2e-6}, torch.bfloat16: {"rtol": 2e-2, "atol": 2e-2}}


def numbers(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(dtype).requires_grad_()


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def both_ways(function, inputs, dtype):
    """Value and gradients by PyTorch, then by the kernels."""
    found = []
    for is_wanted in (False, True):
        assert choose_kernels(is_wanted, CPU, dtype).is_used is is_wanted
        value = function(*inputs)
        torch.manual_seed(1)
        toward = torch.randn(value.shape).to(value.dtype)
        wanting = [tensor for tensor in inputs if tensor.requires_grad]
        found.append([value, *torch.autograd.grad(value, wanting, toward)])
    return found


def assert_both_the_same(function, inputs, dtype):
    for theirs, ours in zip(*both_ways(function, inputs, dtype), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        torch.testing.assert_close(ours, theirs, **FORMATS[dtype])


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("width", [1, 7, 64, 576])
def test_the_norm_is_the_same(dtype, width):
    weight = torch.randn(width).to(dtype)
    assert_both_the_same(lambda x: RmsNorm.apply(x, weight, 1e-5), [numbers(2, 3, width, dtype=dtype)], dtype)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("size", [2, 24, 64])
def test_the_rotation_is_the_same(dtype, size):
    cos, sin = torch.randn(2, 1, 1, 5, size).to(dtype)
    by_token = numbers(1, 5, 3, size, dtype=dtype)  # as a projection leaves it
    assert_both_the_same(lambda x: Rotary.apply(x.transpose(1, 2), cos, sin), [by_token], dtype)


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_gated_product_is_the_same(dtype):
    gate, up = numbers(33, 7, dtype=dtype), numbers(33, 7, dtype=dtype)
    assert_both_the_same(lambda g, u: SwiGlu.apply(60 * g, u), [gate, up], dtype)


ROWS = {
    "one token": PackedRows((1,)),
    "several rows": PackedRows((33, 1, 70)),
    "a common beginning": PackedRows((33, 1, 70), shared=9),
    "only the last tokens": PackedRows((33, 5, 70), tails=(3, 0, 70), wanted=torch.tensor([0])),
    "both": PackedRows((33, 5, 70), shared=9, tails=(3, 0, 50), wanted=torch.tensor([0])),
    "tiles": PackedRows((300,)),
}


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize(("heads", "key_heads", "size"), [(6, 2, 24), (3, 3, 64), (4, 1, 80), (2, 1, 7)])
def test_attention_is_the_same(dtype, rows, heads, key_heads, size):
    tokens = rows.shared + sum(rows.lengths)
    asking = sum(rows.tails or (tokens,))
    shapes = [(1, asking, heads, size), (1, tokens, key_heads, size), (1, tokens, key_heads, size)]
    inputs = [numbers(*shape, dtype=dtype).transpose(1, 2).detach().requires_grad_() for shape in shapes]
    spans = rows.spans(rows.tails is not None)
    assert_both_the_same(lambda q, k, v: RowAttention.apply(q, k, v, spans, size**-0.5), inputs, dtype)


@pytest.mark.parametrize("vendor", ["AuthenticAMD", "GenuineIntel", "another"])
def test_attention_is_the_same_whatever_the_processor_multiplies_fastest(monkeypatch, tmp_path, vendor):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\nvendor_id\t: {vendor}\n", encoding="utf-8")
    monkeypatch.setattr(kernel_build, "_PROCESSOR_FILE", file)
    inputs = [numbers(1, heads, 70, 24, dtype=torch.bfloat16) for heads in (6, 2, 2)]
    spans = PackedRows((40, 21), shared=9).spans(is_tail=False)
    assert_both_the_same(lambda q, k, v: RowAttention.apply(q, k, v, spans, 0.2), inputs, torch.bfloat16)


@pytest.mark.skipif(not torch.cpu.get_capabilities().get("avx2"), reason="its instructions are others")
@pytest.mark.parametrize("processor", ["haswell", "x86-64"])
def test_attention_is_the_same_with_narrower_registers(monkeypatch, processor):
    flags = [flag.replace("native", processor) for flag in kernel_build._FLAGS]
    monkeypatch.setattr(kernel_build, "_FLAGS", tuple(flags))
    inputs = [numbers(1, heads, 70, 24) for heads in (6, 2, 2)]
    spans = PackedRows((40, 21), shared=9).spans(is_tail=False)
    assert_both_the_same(lambda q, k, v: RowAttention.apply(q, k, v, spans, 0.2), inputs, torch.float32)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_the_loss_is_the_same(dtype, size):
    hidden, weight, targets = numbers(9, 16, dtype=dtype), torch.randn(700, 16).to(dtype), torch.arange(9)
    assert_both_the_same(lambda h: TargetLoss.apply(size * h, weight, targets), [hidden], dtype)


@pytest.mark.usefixtures("own_kernels")
def test_logits_far_from_each_other_have_the_loss_of_torch():
    logits = torch.tensor([[0.0, 1e4, -1e4], [-1e4, -1e4, 80.0], [0.0, 0.0, 0.0]])
    targets, nats, gradient = torch.tensor([0, 2, 1]), torch.empty(3), logits.clone()
    kernels_for(logits).cross_entropy(gradient, targets, nats, 3, 3, True)
    wanted = logits.clone().requires_grad_()
    losses = cross_entropy(wanted, targets, reduction="none")
    torch.testing.assert_close(nats, losses)
    torch.testing.assert_close(gradient, torch.autograd.grad(losses.sum(), wanted)[0])


@pytest.mark.usefixtures("own_kernels")
@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 5])
def test_a_number_that_is_none_does_not_vanish(fault, place):
    hidden, weight = torch.ones(1, 1), torch.ones(8, 1)
    weight[place] = fault
    assert not torch.isfinite(TargetLoss.apply(hidden, weight, torch.tensor([1])))
    x = torch.ones(1, 8)
    x[0, place] = fault
    assert not torch.isfinite(RmsNorm.apply(x, torch.ones(8), 1e-6)).all()
    assert not torch.isfinite(SwiGlu.apply(x, torch.ones(1, 8))).all()


@pytest.mark.usefixtures("own_kernels")
def test_the_number_of_threads_changes_nothing():
    inputs = [numbers(1, heads, 90, 64) for heads in (6, 2, 2)]
    spans, before = PackedRows((40, 50)).spans(is_tail=False), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            output = RowAttention.apply(*inputs, spans, 0.125)
            found.append([output, *torch.autograd.grad(output.sum(), inputs)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.usefixtures("own_kernels")
def test_a_lack_of_memory_in_attention_is_one_that_training_understands():
    query, key, normaliser = torch.ones(1, 1, 8), torch.ones(1, 1, 8), torch.ones(1, 1)
    unthinkable = torch.tensor([[0, 1, 0, 1 << 42]])
    layout = torch.tensor([1, 0, 1, 1, 8, 1, 8, 8, 8, 8, 8, 8])
    with pytest.raises(torch.OutOfMemoryError):
        kernels_for(query).attention_forward(query, key, key, query, normaliser, unthinkable, layout, 1.0)


@pytest.mark.usefixtures("own_kernels")
def test_they_serve_dense_tensors_of_the_model_s_format_on_the_cpu():
    assert kernels_for(torch.ones(2, 3))
    assert kernels_for(torch.ones(2, 3).T) is None
    assert kernels_for(torch.ones(2).bfloat16()) is None
    assert kernels_for(torch.ones(2), torch.ones(2).bfloat16()) is None
    assert kernels_for(torch.ones(2, device="meta")) is None


def test_a_gpu_other_formats_and_a_setting_do_without():
    assert choose_kernels(True, CPU, torch.float64).reason == "not for float64"
    assert choose_kernels(True, torch.device("cuda", 0), torch.bfloat16).reason == "not for cuda"
    assert str(choose_kernels(False, CPU, torch.float32)) == "PyTorch (as set in cpu_kernels)"
    assert kernels_for(torch.ones(1)) is None


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("LORAKIT_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def program(folder, text):
    """A g++ of our own, the only program there is."""
    file = folder / "g++"
    file.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    file.chmod(0o755)
    return str(file)


COMPILERS = {
    "none": (None, "there is no C++ compiler"),
    "clang": ('echo "clang version 18"', "the C++ compiler is not GNU's"),
    "broken": (
        'if [ "$1" = --version ]; then echo "Free Software Foundation"; else echo "no such flag" >&2; exit 1; fi',
        "the C++ compiler failed (no such flag)",
    ),
    "no program at all": ("exit 3", "the C++ compiler failed"),
}


@pytest.mark.parametrize(("text", "reason"), COMPILERS.values(), ids=COMPILERS)
def test_without_a_compiler_that_will_do_pytorch_computes(monkeypatch, tmp_path, cache, text, reason):
    found = text and program(tmp_path, text)
    monkeypatch.setattr(shutil, "which", lambda name: found)
    choice = choose_kernels(True, CPU, torch.float32)
    assert not choice.is_used
    assert choice.reason.startswith(reason)
    assert kernels_for(torch.ones(1)) is None
    assert not [*cache.rglob("*")]


@pytest.mark.usefixtures("own_kernels")
def test_what_is_built_is_used_again_and_what_others_may_write_is_not(monkeypatch, cache):
    assert choose_kernels(True, CPU, torch.float32).is_used
    (library,) = cache.iterdir()
    monkeypatch.setattr(kernel_build, "_compile", None)  # there is nothing to compile any more
    assert choose_kernels(True, CPU, torch.float32).is_used
    library.chmod(library.stat().st_mode | stat.S_IWOTH)
    assert choose_kernels(True, CPU, torch.float32).reason == f"others may write {library}"


@pytest.mark.usefixtures("cache")
def test_other_threads_than_pytorch_s_are_not_brought_in(monkeypatch):
    monkeypatch.setattr(kernel_build.platform, "system", lambda: "Darwin")
    assert choose_kernels(True, CPU, torch.float32).reason == "only on Linux"


def test_a_library_that_cannot_be_loaded_is_left_alone(monkeypatch, tmp_path):
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    monkeypatch.setattr("lorakit.engine.kernels.built_kernels", lambda dtype: broken)
    assert not choose_kernels(True, CPU, torch.float32).is_used
