"""Any run, cut at any step by a stop or at any call by a kill, and resumed, equals the uncut one bit for bit.

Settings are drawn by a seed, so that all combinations of any two of `FEATURES` are there. Two runs are in the fast tier
(`test_a_few_points.py`).
"""

import pytest
from survival.cuts import check, runs
from survival.lab import Lab, lab_with_pictures, needs_shim

pytestmark = [needs_shim, pytest.mark.slow]
SETTINGS, AT_ONCE = 220, 20
MOST_REFUSED = 0.1


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
    chosen = list(enumerate(runs(SETTINGS)))[start : start + AT_ONCE]
    equal = [check(lab_of_pictures if run["pictures"] else lab, number, run) for number, run in chosen]
    print(f"{sum(equal)} of {len(equal)} runs are the same")
    assert sum(equal) >= (1 - MOST_REFUSED) * len(equal)
