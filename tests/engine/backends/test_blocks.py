"""What blocks.cpp computes in one go, held to what float64 does: sizes that fill no tile, sums in parts, adapters."""

from dataclasses import dataclass

import pytest
import torch
from backends import backend_of_kind
from tolerances import assert_within, rounding_errors

from lorakit.engine.backends.operands import LoraFactors, MlpSaved, Norm, NormedInput, Projection


@dataclass(frozen=True)
class Case:
    """Tokens, width, inner width, the ranks of three adapters (0: none), and whether there are biases."""

    tokens: int
    width: int
    inner: int
    ranks: tuple[int, int, int]
    has_bias: bool = False


CASES = (
    Case(1, 2, 2, (2, 2, 2)),
    Case(5, 14, 22, (0, 0, 0)),
    Case(15, 34, 66, (8, 0, 2), has_bias=True),
    Case(29, 70, 130, (2, 16, 0)),
    Case(97, 96, 64, (0, 6, 34), has_bias=True),
    Case(15, 1024, 24, (2, 2, 2)),  # rows that lie a power of two apart
    Case(3, 16, 3300, (2, 2, 2)),  # a sum in several parts
)


def native(dtype, x, projections, norm=None):
    backend = backend_of_kind(True, dtype)
    if not backend.serves_block(x, projections, norm):
        assert dtype is torch.bfloat16
        pytest.skip("this processor has no instruction for pairs of bfloat16")
    return backend


def backend_for(way, x, projections, norm):
    return backend_of_kind(False) if way == "PyTorch" else native(x.dtype, x, projections, norm)


def drawn(dtype, *shape, size=1.0, around=0.0):
    """Numbers that all formats have."""
    return (around + size * torch.randn(*shape)).bfloat16().to(dtype)


def projection(dtype, out, wide, rank, has_bias):
    weight = drawn(dtype, out, wide, size=wide**-0.5)
    bias = drawn(dtype, out) if has_bias else None
    of_factors = torch.promote_types(dtype, torch.float32)
    a, b = drawn(of_factors, rank, wide, size=wide**-0.5), drawn(of_factors, out, rank)
    return Projection(weight, bias, LoraFactors(a, b, 0.5) if rank else None)


def found(gradients):
    return [one for one in gradients if one is not None]


def of_mlp(case, dtype, way):
    """All that the MLP returns, forward and backward."""
    torch.manual_seed(0)
    shapes = ((case.inner, case.width), (case.inner, case.width), (case.width, case.inner))
    each = [projection(dtype, *shape, rank, case.has_bias) for shape, rank in zip(shapes, case.ranks, strict=True)]
    norm = Norm(drawn(dtype, case.width, size=0.1, around=1.0), 1e-6)
    x, grad = drawn(dtype, case.tokens, case.width), drawn(dtype, case.tokens, case.width)
    by = backend_for(way, x, each, norm)
    y, gate, up, smalls, rstd = by.mlp(x, norm, each)
    saved = MlpSaved(NormedInput(x, norm, rstd), each, smalls, gate, up)
    grad_x, gradients = by.mlp_backward(saved, grad, True)
    _, without = by.mlp_backward(saved, grad, False)
    return [y, gate, up, *found(smalls), rstd, grad_x, *found(gradients), *found(without)]


def of_attention(case, dtype, way):
    """All that the projections around attention return."""
    torch.manual_seed(0)
    outs = (case.inner, 2 * case.tokens, case.inner)
    inner = [
        projection(dtype, out, case.width, rank, case.has_bias) for out, rank in zip(outs, case.ranks, strict=True)
    ]
    last = projection(dtype, case.width, case.inner, case.ranks[0], case.has_bias)
    norm = Norm(drawn(dtype, case.width, size=0.1, around=1.0), 1e-6)
    x, grad = drawn(dtype, case.tokens, case.width), drawn(dtype, case.tokens, case.width)
    by = backend_for(way, x, [*inner, last], norm)
    outputs, smalls, rstd = by.norm_linears(x, norm, inner, (None, None, None))
    y, small = by.add_linear(outputs[0], last, x)
    grad_output, of_last = by.add_linear_backward(last, outputs[0], small, grad)
    grads = [grad_output, drawn(dtype, case.tokens, outs[1]), drawn(dtype, case.tokens, outs[2])]
    grad_x, gradients = by.norm_linears_backward(NormedInput(x, norm, rstd), inner, smalls, grads, grad)
    return [*outputs, *found(smalls), rstd, y, grad_output, grad_x, *found(gradients), *found(of_last)]


@pytest.mark.every(5)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("half", [of_mlp, of_attention])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_half_is_what_float64_computes(case, half, dtype):
    exact, allowed = rounding_errors(lambda: half(case, torch.float64, "PyTorch"), dtype, repetitions=2)
    assert_within(half(case, dtype, "C++"), exact, allowed)


@pytest.mark.parametrize("half", [of_mlp, of_attention])
def test_results_do_not_depend_on_the_number_of_threads(half):
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(half(CASES[4], torch.float32, "C++"))
    finally:
        torch.set_num_threads(before)
    assert all(all(map(torch.equal, results[0], other)) for other in results[1:])


@pytest.mark.parametrize(
    "change",
    [
        {"weight": torch.zeros(4, 6, dtype=torch.float16)},
        {"weight": torch.zeros(8, 12)[::2, ::2]},
        {"bias": torch.zeros(8)[::2]},
        {"lora": LoraFactors(torch.zeros(2, 6), torch.zeros(4, 2), 1.0, torch.ones(3, 6, dtype=torch.bool))},
        {"lora": LoraFactors(torch.zeros(2, 6, dtype=torch.bfloat16), torch.zeros(4, 2), 1.0)},
        {"lora": LoraFactors(torch.zeros(6, 2).T, torch.zeros(4, 2), 1.0)},
    ],
)
def test_what_they_do_not_compute_is_left_to_pytorch(change):
    norm, x = Norm(torch.ones(6), 1e-6), torch.zeros(3, 6)
    plain = Projection(torch.zeros(4, 6))
    by = backend_of_kind(True)
    assert by.serves_block(x, [plain], norm)
    changed = Projection(**{"weight": plain.weight, **change})
    assert not by.serves_block(x, [plain, changed], norm)


def test_odd_sizes_are_not_multiplied_in_pairs():
    x, norm = torch.zeros(3, 6, dtype=torch.bfloat16), Norm(torch.ones(6, dtype=torch.bfloat16), 1e-6)
    odd = Projection(torch.zeros(5, 6, dtype=torch.bfloat16))
    assert not backend_of_kind(True, torch.bfloat16).serves_block(x, [odd], norm)
