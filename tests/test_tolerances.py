"""The bounds that tests hold results to: wide enough for any order of adding up, too narrow for fewer bits."""

import pytest
import torch
from tolerances import assert_within, rounding_errors, unit_roundoff


def chain(left, right):
    """Differences of probabilities: what cancels, and what it is multiplied by."""
    scores = torch.softmax(left @ right, -1)
    return [(scores - scores.mean(-1, keepdim=True)) @ right.T]


def factors(dtype=torch.float64):
    torch.manual_seed(0)
    return [torch.randn(*shape).to(dtype) for shape in ((30, 40), (40, 50))]


def test_float32_is_within_in_any_order_and_fewer_bits_are_not():
    exact, allowed = rounding_errors(lambda: chain(*factors()), torch.float32)
    left, right = factors(torch.float32)
    order = torch.randperm(40).tolist()
    assert_within(chain(left, right), exact, allowed)
    backward = torch.softmax(sum(left[:, [i]] * right[[i]] for i in order), -1)
    assert_within([(backward - backward.mean(-1, keepdim=True)) @ right.T], exact, allowed)
    fewer = torch.softmax((left @ right).half().float(), -1)
    with pytest.raises(AssertionError, match="off by up to"):
        assert_within([(fewer - fewer.mean(-1, keepdim=True)) @ right.T], exact, allowed)


def test_the_bound_of_one_product_is_the_textbook_s():
    left, right = factors()
    exact, [allowed] = rounding_errors(lambda: [left @ right], torch.float32, repetitions=2)
    off = unit_roundoff(torch.float32) * (exact[0].abs() + 40**0.5 * (left.abs() @ right.abs()))
    torch.testing.assert_close(allowed, 4 * (off**2 + (off**2).mean()).sqrt())


@pytest.mark.parametrize("fault", [torch.nan, torch.inf])
def test_what_is_not_a_number_is_never_within(fault):
    with pytest.raises(AssertionError, match="1 of 2"):
        assert_within([torch.tensor([1.0, fault])], [torch.ones(2)], [torch.full((2,), 1e9)])
