import math

import pytest

from lorakit.engine import LossSum


def test_sums_add_up_and_the_mean_is_over_targets():
    total = LossSum(6.0, 2) + LossSum(1.0, 5)
    assert (total.nats, total.targets) == (7.0, 7)
    assert total.mean == 1.0
    assert total.perplexity == pytest.approx(math.e)


def test_extremes_do_not_raise():
    assert math.isnan(LossSum().mean)
    assert LossSum(1e9, 1).perplexity == math.inf
