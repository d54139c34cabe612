"""The C++ and the PyTorch operations that stand in for it against float64."""

import pytest
import torch
from backends import CPU, backend_of_kind
from tolerances import assert_within, rounding_errors, unit_roundoff
from torch.nn.functional import cross_entropy

from lorakit.engine import choose_backend
from lorakit.engine.backends.cpu.levels import VARIABLE, levels_here
from lorakit.engine.backends.operands import Limits
from lorakit.engine.layout import PackedLayout
from lorakit.engine.ops.attention import PackedAttention
from lorakit.engine.ops.pointwise import RmsNorm, Rope, SwiGlu
from lorakit.engine.ops.token_logprobs import TokenLogprobs
from lorakit.engine.runtime import processor

FORMATS = (torch.float32, torch.bfloat16)


def numbers(*shape, dtype=torch.float32):
    return torch.randn(*shape).to(dtype).requires_grad_()


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def value_and_gradients(function, inputs, backend):
    value = function(*inputs, backend)
    toward = torch.randn(value.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(value.dtype)
    wanting = [tensor for tensor in inputs if tensor.requires_grad]
    return [value, *torch.autograd.grad(value, wanting, toward)]


def assert_both_compute_what_float64_does(function, inputs):
    """PyTorch's operations and the kernels that stand in for them."""
    dtype = inputs[0].dtype
    wide = [tensor.detach().double().requires_grad_(tensor.requires_grad) for tensor in inputs]
    exact, allowed = rounding_errors(lambda: value_and_gradients(function, wide, backend_of_kind(False)), dtype)
    formats = []
    for backend in (backend_of_kind(False, dtype), backend_of_kind(True, dtype)):
        found = value_and_gradients(function, inputs, backend)
        assert_within(found, exact, allowed, str(backend))
        formats.append([one.dtype for one in found])
    assert formats[0] == formats[1]


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("width", [1, 7, 64, 576])
def test_the_norm_is_the_same(dtype, width):
    weight = torch.randn(width).to(dtype)
    x = numbers(2, 3, width, dtype=dtype)
    assert_both_compute_what_float64_does(lambda x, weight, by: RmsNorm.apply(x, weight, 1e-5, by), [x, weight])


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("size", [2, 24, 64])
def test_the_rotation_is_the_same(dtype, size):
    cos, sin = torch.randn(2, 1, 1, 5, size).to(dtype)
    by_token = numbers(1, 5, 3, size, dtype=dtype)  # as a projection leaves it
    assert_both_compute_what_float64_does(
        lambda x, *angles: Rope.apply(x.transpose(1, 2), *angles), [by_token, cos, sin]
    )


@pytest.mark.parametrize("dtype", FORMATS)
def test_the_gated_product_is_the_same(dtype):
    gate, up = numbers(33, 7, dtype=dtype), numbers(33, 7, dtype=dtype)
    assert_both_compute_what_float64_does(lambda g, u, by: SwiGlu.apply(64 * g, u, by), [gate, up])


ROWS = {
    "one token": PackedLayout((1,)),
    "several rows": PackedLayout((33, 1, 70)),
    "a common beginning": PackedLayout((33, 1, 70), prefix_len=9),
    "only the last tokens": PackedLayout((33, 5, 70), tails=(3, 0, 70), wanted=torch.tensor([0])),
    "both": PackedLayout((33, 5, 70), prefix_len=9, tails=(3, 0, 50), wanted=torch.tensor([0])),
    "tiles": PackedLayout((300,)),
}


@pytest.mark.every(11)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize(("heads", "key_heads", "size"), [(6, 2, 24), (3, 3, 64), (4, 1, 80), (2, 1, 7)])
def test_attention_is_the_same(dtype, rows, heads, key_heads, size):
    tokens = rows.prefix_len + sum(rows.seqlens)
    asking = sum(rows.tails or (tokens,))
    shapes = [(1, asking, heads, size), (1, tokens, key_heads, size), (1, tokens, key_heads, size)]
    inputs = [numbers(*shape, dtype=dtype).transpose(1, 2).detach().requires_grad_() for shape in shapes]
    spans = rows.tail_spans
    assert_both_compute_what_float64_does(
        lambda q, k, v, by: PackedAttention.apply(q, k, v, spans, size**-0.5, by), inputs
    )


LIMITS = {
    "a window": {"window": 37},
    "a window of one": {"window": 1},
    "chunks": {"chunk": 50},
    "a soft cap": {"soft_cap": 2.0},
    "sinks": {"sinks": [-1.0, 30.0]},
    "all of them": {"window": 40, "chunk": 100, "soft_cap": 2.0, "sinks": [0.5, 1.0]},
}


@pytest.mark.every(11)
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("rows", [ROWS["tiles"], ROWS["both"]], ids=["tiles", "both"])
@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_limited_attention_is_the_same(dtype, rows, limits):
    tokens = rows.prefix_len + sum(rows.seqlens)
    shapes = [(1, sum(rows.tails or (tokens,)), 4, 24), (1, tokens, 2, 24), (1, tokens, 2, 24)]
    inputs = [numbers(*shape, dtype=dtype).transpose(1, 2).detach().requires_grad_() for shape in shapes]
    sinks = {"sinks": torch.tensor(limits["sinks"]).repeat(2)} if "sinks" in limits else {}

    def attend(query, key, value, by):
        return PackedAttention.apply(query, key, value, rows.tail_spans, 0.2, by, Limits(**{**limits, **sinks}))

    assert_both_compute_what_float64_does(attend, inputs)


def assert_attention_is_the_same(dtype):
    inputs = [numbers(1, heads, 70, 24, dtype=dtype) for heads in (6, 2, 2)]
    spans = PackedLayout((40, 21), prefix_len=9).spans
    assert_both_compute_what_float64_does(lambda q, k, v, by: PackedAttention.apply(q, k, v, spans, 0.2, by), inputs)


@pytest.mark.parametrize("vendor", ["AuthenticAMD", "GenuineIntel", "another"])
def test_attention_is_the_same_whatever_the_processor_multiplies_fastest(monkeypatch, tmp_path, vendor):
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor : 0\nvendor_id\t: {vendor}\n", encoding="utf-8")
    monkeypatch.setattr(processor, "_LINUX_FILE", file)
    monkeypatch.delenv(VARIABLE, raising=False)  # this processor says nothing of what it has
    assert_attention_is_the_same(torch.bfloat16)


def test_attention_is_the_same_with_the_narrowest_registers(monkeypatch):
    monkeypatch.setenv(VARIABLE, levels_here()[-1].name)
    assert_attention_is_the_same(torch.float32)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("size", [1.0, 32.0])
def test_the_loss_is_the_same(dtype, size):
    hidden, weight, targets = numbers(9, 16, dtype=dtype), torch.randn(700, 16).to(dtype), torch.arange(9)
    assert_both_compute_what_float64_does(
        lambda h, weight, by: TokenLogprobs.apply(size * h, weight, targets, by), [hidden, weight]
    )


def test_logits_far_from_each_other_have_the_loss_of_torch():
    logits = torch.tensor([[0.0, 1e4, -1e4], [-1e4, -1e4, 80.0], [0.0, 0.0, 0.0]])
    targets, nats, gradient = torch.tensor([0, 2, 1]), torch.empty(3), logits.clone()
    backend_of_kind(True).kernels.cross_entropy(gradient, targets, nats, 3, 3, True)
    wanted = logits.clone().requires_grad_()
    losses = cross_entropy(wanted, targets, reduction="none")
    # A few roundings of numbers as large as the logits are apart, and of probabilities.
    allowed = [
        torch.full(one.shape, 8 * unit_roundoff(torch.float32) * size) for one, size in ((nats, 2e4), (gradient, 1))
    ]
    assert_within([nats, gradient], [losses, torch.autograd.grad(losses.sum(), wanted)[0]], allowed)


@pytest.mark.parametrize("fault", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", [0, 5])
def test_a_number_that_is_none_does_not_vanish(fault, place):
    hidden, weight, by = torch.ones(1, 1), torch.ones(8, 1), backend_of_kind(True)
    weight[place] = fault
    assert not torch.isfinite(TokenLogprobs.apply(hidden, weight, torch.tensor([1]), by))
    x = torch.ones(1, 8)
    x[0, place] = fault
    assert not torch.isfinite(RmsNorm.apply(x, torch.ones(8), 1e-6, by)).all()
    assert not torch.isfinite(SwiGlu.apply(x, torch.ones(1, 8), by)).all()


def test_the_number_of_threads_changes_nothing():
    inputs = [numbers(1, heads, 90, 64) for heads in (6, 2, 2)]
    spans, before = PackedLayout((40, 50)).spans, torch.get_num_threads()
    found, by = [], backend_of_kind(True)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            output = PackedAttention.apply(*inputs, spans, 0.125, by)
            found.append([output, *torch.autograd.grad(output.sum(), inputs)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_a_lack_of_memory_in_attention_is_one_that_training_understands():
    query, key, normaliser = torch.ones(1, 1, 8), torch.ones(1, 1, 8), torch.ones(1, 1)
    unthinkable = torch.tensor([[0, 1, 0, 1 << 42]])
    layout = torch.tensor([1, 0, 1, 1, 8, 1, 8, 8, 8, 8, 8, 8, 0, 0])
    inputs, places = (query, key, key, None, query, normaliser), (unthinkable, layout, 1.0, 0.0)
    with pytest.raises(torch.OutOfMemoryError):
        backend_of_kind(True).kernels.attention_forward(*inputs, *places)


def test_they_serve_dense_tensors_of_the_model_s_format_on_the_cpu():
    by = backend_of_kind(True)
    assert by.serves(torch.ones(2, 3))
    assert not by.serves(torch.ones(2, 3).T)
    assert not by.serves(torch.ones(2).bfloat16())
    assert not by.serves(torch.ones(2), torch.ones(2).bfloat16())
    assert not by.serves(torch.ones(2, device="meta"))


def test_a_gpu_other_formats_and_a_setting_do_without():
    assert choose_backend(True, CPU, torch.float64).reason == "not for float64"
    assert choose_backend(True, torch.device("cuda", 0), torch.bfloat16).reason == "not for cuda"
    assert str(choose_backend(False, CPU, torch.float32)) == "PyTorch (as set in cpu_kernels)"


def test_two_models_in_one_process_have_a_backend_each():
    """Neither the choice for another model nor its working memory changes what is computed for this one."""
    x, weight = torch.randn(3, 16), torch.randn(16)
    one, other = backend_of_kind(True), backend_of_kind(True, torch.bfloat16)
    before = RmsNorm.apply(x, weight, 1e-5, one)
    RmsNorm.apply(x.bfloat16(), weight.bfloat16(), 1e-5, other)
    place, its = one.workspace.take("norm", x.shape, x), backend_of_kind(True).workspace.take("norm", x.shape, x)
    assert torch.equal(RmsNorm.apply(x, weight, 1e-5, one), before)
    assert place.data_ptr() != its.data_ptr()
