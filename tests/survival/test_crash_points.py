"""Every task, ended or failed at the calls that change files: nothing is lost, and what goes on is the same run.

A few points, drawn by a seed, are in the fast tier (`test_a_few_points.py`).
"""

import errno

import pytest
from survival.lab import Lab, needs_shim
from survival.scenarios import SCENARIOS

pytestmark = [needs_shim, pytest.mark.slow]
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    made = Lab(tmp_path_factory.mktemp("survival"))
    yield made
    made.close()


@pytest.mark.parametrize("mode", ["kill", "power", "torn"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_ended_at_any_call_nothing_is_lost(lab, name, mode):
    stage = lab.stage(name)
    for point in range(stage.calls):
        stage.strike(point, mode)
    print(f"{name}: {mode} at {stage.calls} points")


@pytest.mark.parametrize("mode", ["fail_once", "fail_on", "short"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_where_any_call_fails_the_task_ends_with_a_message_or_goes_on_as_if_it_had_not(lab, name, mode):
    stage = lab.stage(name)
    for point in range(stage.calls):
        stage.strike(point, mode, 0 if mode == "short" else list(ERRORS.values())[point % len(ERRORS)])
    print(f"{name}: {mode} at {stage.calls} points")
