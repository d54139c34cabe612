import random

import pytest

from lorakit.evaluate.intervals import bootstrap_intervals
from lorakit.report import Interval


def test_equal_values_leave_no_doubt():
    assert bootstrap_intervals({"a": [0.5] * 7}) == {"a": Interval(0.5, 0.5, 0.5)}


def test_one_row_is_all_that_can_be_drawn():
    assert bootstrap_intervals({"a": [3.0]})["a"] == Interval(3.0, 3.0, 3.0)


def test_two_rows_give_means_of_zero_half_and_one():
    # a resample has the mean 0 or 1 with probability 1/4 each: more than the 2.5 % outside the bounds
    assert bootstrap_intervals({"a": [0.0, 1.0]})["a"] == Interval(0.5, 0.0, 1.0)


def test_the_interval_is_that_of_the_normal_approximation_where_rows_are_many():
    generator = random.Random(0)
    values = [float(generator.random() < 0.3) for _ in range(2000)]
    mean = sum(values) / len(values)
    error = 1.96 * (mean * (1 - mean) / len(values)) ** 0.5
    found = bootstrap_intervals({"a": values})["a"]
    assert found.low == pytest.approx(mean - error, abs=error / 10)
    assert found.high == pytest.approx(mean + error, abs=error / 10)


def test_the_same_values_have_the_same_interval_beside_any_others():
    values = [0.1, 0.9, 0.4, 0.6, 0.2]
    assert bootstrap_intervals({"a": values})["a"] == bootstrap_intervals({"b": [1.0] * 5, "a": values})["a"]


def test_columns_are_drawn_alike_so_that_a_constant_difference_has_no_width():
    base = [0.1, 0.9, 0.4, 0.6]
    tuned = [value + 1 for value in base]
    difference = [b - a for a, b in zip(base, tuned, strict=True)]
    found = bootstrap_intervals({"base": base, "tuned": tuned, "difference": difference})
    assert found["difference"].high - found["difference"].low == pytest.approx(0)
    assert found["tuned"].low == pytest.approx(found["base"].low + 1)
