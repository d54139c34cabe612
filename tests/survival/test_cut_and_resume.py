"""Any run, cut at any step by a stop or at any call by a kill, and resumed, equals the uncut one bit for bit.

Settings are drawn by a seed, a quarter of them with pictures. Two are in the fast tier (`test_a_few_points.py`).
"""

import pytest
from survival.cuts import check
from survival.lab import Lab, lab_with_pictures, needs_shim

pytestmark = [needs_shim, pytest.mark.slow]
SETTINGS, AT_ONCE = 200, 20
PICTURES_IN = 4  # the last of so many runs has them


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    made = Lab(tmp_path_factory.mktemp("cuts"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def lab_of_pictures(tmp_path_factory):
    made = lab_with_pictures(tmp_path_factory.mktemp("pictures"))
    yield made
    made.close()


@pytest.mark.parametrize("start", range(0, SETTINGS, AT_ONCE))
def test_a_run_cut_anywhere_and_resumed_equals_the_uncut_one(lab, lab_of_pictures, start):
    for number in range(start, start + AT_ONCE):
        has_pictures = number % PICTURES_IN == PICTURES_IN - 1
        check(lab_of_pictures if has_pictures else lab, number, has_pictures)
