"""Any run, cut at any step by a stop or at any call by a kill, and resumed, equals the uncut one bit for bit.

Settings are drawn by a seed, so that all combinations of any two of `FEATURES` are there. One is in the fast tier
(`test_a_few_points.py`).
"""

import pytest
from survival.cuts import check, runs
from survival.lab import lab_fixture, lab_with_pictures, needs_shim

pytestmark = [needs_shim, pytest.mark.slow]
SETTINGS, AT_ONCE = 220, 20
MOST_REFUSED = 0.1
lab = lab_fixture()
lab_of_pictures = lab_fixture(lab_with_pictures)


@pytest.mark.parametrize("start", range(0, SETTINGS, AT_ONCE))
def test_a_run_cut_anywhere_and_resumed_equals_the_uncut_one(lab, lab_of_pictures, start):
    chosen = list(enumerate(runs(SETTINGS)))[start : start + AT_ONCE]
    equal = [check(lab_of_pictures if run["pictures"] else lab, number, run) for number, run in chosen]
    print(f"{sum(equal)} of {len(equal)} runs are the same")
    assert sum(equal) >= (1 - MOST_REFUSED) * len(equal)
