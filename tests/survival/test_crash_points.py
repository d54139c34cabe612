"""Every task, struck at every call that changes files: nothing is lost, and what goes on is the same run.

A few points, drawn by a seed, are in the fast tier (`test_a_few_points.py`).
"""

import pytest
from survival.lab import lab_fixture, needs_shim
from survival.scenarios import SCENARIOS
from survival.stage import ENDED, ERRORS, FAILED

pytestmark = [needs_shim, pytest.mark.slow]
ALONE = [name for name, scenario in SCENARIOS.items() if scenario.ranks == 1]
TOGETHER = [name for name, scenario in SCENARIOS.items() if scenario.ranks > 1]


lab = lab_fixture()


@pytest.mark.parametrize("name", ALONE)
def test_ended_or_failing_at_any_call_a_task_loses_nothing_and_is_taken_up_again(lab, name):
    counts = lab.stage(name).sweep((*ENDED, *FAILED))
    print(f"{name}: {counts}")
    assert counts["kill"] == counts["power"] == lab.stage(name).calls
    assert counts["fail_once"] == counts["fail_on"] == len(ERRORS) * counts["kill"]


@pytest.mark.parametrize("mode", ["kill", "power", "torn", "short", "fail_once", "fail_on"])
@pytest.mark.parametrize("name", TOGETHER)
def test_of_several_processes_one_is_ended_or_fails_at_any_call(lab, name, mode):
    stage = lab.stage(name)
    for point in range(stage.calls):
        failing = list(ERRORS.values())[point % len(ERRORS)] if mode.startswith("fail") else 0
        stage.strike(point, mode, failing)
    print(f"{name}: {mode} at {stage.calls} points")
