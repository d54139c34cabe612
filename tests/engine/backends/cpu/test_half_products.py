"""Products with frozen weights in float16 against float64, by lorakit's own C++ and by PyTorch."""

import pytest
import torch
from backends import backend_of_kind

from lorakit.engine.backends.cpu import half_products
from lorakit.engine.backends.cpu.levels import NoKernelsError

SHAPES = [(1, 1, 1), (3, 70, 5), (8, 64, 130), (9, 65, 7), (13, 16, 64), (15, 200, 65), (61, 1300, 900), (200, 33, 31)]
BACKEND = backend_of_kind(True)
BY = ["along", "across"]  # how the weight lies in memory: a row after the other, or a column


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


@pytest.fixture
def without_kernel(monkeypatch):
    monkeypatch.setattr(half_products, "_kernel_or_fault", lambda: NoKernelsError("none"))


def factors(rows, depth, columns, by="along"):
    weight = 0.05 * torch.randn(*((depth, columns) if by == "along" else (columns, depth)))
    return torch.randn(rows, depth), weight.half() if by == "along" else weight.half().T


def exact(left, right):
    return left.double() @ right.double()


def error(found, wanted):
    """Relative to the size of the numbers of each row."""
    sizes = wanted.pow(2).mean(1, keepdim=True).sqrt()
    return ((found - wanted) / sizes).pow(2).mean().sqrt().item()


@pytest.mark.usefixtures("half_kernel")
@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_kernel_is_more_exact_than_bfloat16(shape, by):
    left, right = factors(*shape, by)
    wanted = exact(left, right)
    found = BACKEND.matmul(left, right)
    assert found.dtype is torch.float32
    assert error(found, wanted) < 2e-3
    if shape[0] > 20:  # enough numbers to compare
        rounded = exact(left.bfloat16(), right.float().bfloat16())
        assert error(found, wanted) < 0.6 * error(rounded, wanted)


@pytest.mark.usefixtures("half_kernel")
@pytest.mark.parametrize("rows", [1, 8])
def test_of_few_rows_the_kernel_rounds_nothing_to_float16(rows):
    left, right = factors(rows, 700, 50, "across")
    assert error(BACKEND.matmul(left, right), exact(left, right)) < 1e-6


@pytest.mark.usefixtures("half_kernel")
def test_numbers_of_any_size_are_held():
    left, right = factors(40, 300, 70)
    sizes = 10.0 ** torch.linspace(-28, 28, 40)[:, None]
    assert error(BACKEND.matmul(left * sizes, right), exact(left * sizes, right)) < 2e-3
    outlier = left.clone()
    outlier[:, 17] *= 1000  # as hidden states of large models have
    assert error(BACKEND.matmul(outlier, right), exact(outlier, right)) < 2e-3


@pytest.mark.usefixtures("half_kernel")
def test_the_largest_weights_and_the_same_sign_do_not_overflow():
    left, right = torch.full((20, 256), 3e4), torch.full((256, 40), 31.0).half()
    assert error(BACKEND.matmul(left, right), exact(left, right)) < 0.02


@pytest.mark.usefixtures("half_kernel")
def test_zeros_stay_zeros_and_what_is_not_a_number_shows():
    left, right = factors(20, 130, 70)
    left[3] = 0
    left[5, 99], left[6, 99] = torch.nan, torch.inf
    found = BACKEND.matmul(left, right)
    assert not found[3].any()
    assert found[5].isnan().all()
    assert not found[6].isfinite().any()
    assert found[[row for row in range(20) if row not in (5, 6)]].isfinite().all()


@pytest.mark.usefixtures("half_kernel")
def test_results_do_not_depend_on_the_number_of_threads():
    left, right = factors(150, 1300, 900, "across")
    few, few_right = factors(40, 1300, 900, "across")
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append((BACKEND.matmul(left, right), BACKEND.matmul(few, few_right)))
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("computing", ["half_kernel", "without_kernel"])
@pytest.mark.parametrize("by", BY)
def test_bias_place_and_total_are_taken(request, computing, by):
    request.getfixturevalue(computing)
    left, right = factors(30, 150, 70, by)
    bias, total = torch.randn(70), torch.randn(30, 70)
    wanted, tolerance = exact(left, right).float(), {"rtol": 0, "atol": 0.01}
    wide = torch.zeros(30, 100)
    torch.testing.assert_close(BACKEND.matmul(left, right, out=wide[:, 20:90]), wanted, **tolerance)
    assert not wide[:, :20].any()
    assert not wide[:, 90:].any()
    torch.testing.assert_close(BACKEND.matmul(left, right, bias), wanted + bias, **tolerance)
    added = total.clone()
    assert BACKEND.addmm(added, left, right) is added
    torch.testing.assert_close(added, wanted + total, **tolerance)
    torch.testing.assert_close(BACKEND.addmm(None, left.T.contiguous().T, right), wanted, **tolerance)


@pytest.mark.usefixtures("without_kernel")
def test_without_the_kernel_the_weight_is_widened():
    left, right = factors(30, 150, 70)
    assert torch.equal(BACKEND.matmul(left, right), left @ right.float())


@pytest.mark.parametrize("has_place", [False, True])
@pytest.mark.parametrize("has_bias", [False, True])
def test_of_one_format_it_is_pytorch_s_product(has_bias, has_place):
    left, right, bias = torch.randn(5, 7), torch.randn(7, 3), torch.randn(3)
    found = BACKEND.matmul(left, right, bias if has_bias else None, torch.empty(5, 3) if has_place else None)
    torch.testing.assert_close(found, left @ right + (bias if has_bias else 0))
