"""Every task, struck at every call that changes files: nothing is lost, and what goes on is the same run.

A few points, drawn by a seed, are in the fast tier (`test_a_few_points.py`).
"""

import os
import random

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


# Of a task in several processes, each of which takes seconds to meet the others, a sample; ALL_POINTS=1 takes hours.
POINTS = {"kill": 12, "power": 3, "torn": 3, "short": 3, "fail_once": 3, "fail_on": 3}


@pytest.mark.parametrize("mode", POINTS)
@pytest.mark.parametrize("name", TOGETHER)
def test_of_several_processes_one_is_ended_or_fails_at_any_call(lab, name, mode):
    stage = lab.stage(name)
    drawn = sorted(random.Random(f"{name} {mode}").sample(range(stage.calls), POINTS[mode]))
    points = range(stage.calls) if os.environ.get("ALL_POINTS") else drawn
    for point in points:
        failing = list(ERRORS.values())[point % len(ERRORS)] if mode.startswith("fail") else 0
        stage.strike(point, mode, failing)
    print(f"{name}: {mode} at {len(points)} of {stage.calls} points")
