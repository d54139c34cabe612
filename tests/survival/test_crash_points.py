"""Every task, ended or failed at the calls that change files: nothing is lost, and what goes on is the same run.

The fast tier strikes a few points, drawn by a seed; the slow tier all of them.
"""

import errno
import random

import pytest
from survival.lab import Lab, needs_shim
from survival.machine import tree
from survival.scenarios import SCENARIOS, Stage

pytestmark = needs_shim
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}
SEED = 20


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """Return a function from a scenario's name to its stage."""
    lab = Lab(tmp_path_factory.mktemp("survival"))
    made = {}

    def stage(name):
        if name not in made:
            begin = lab.root / f"begin-{name.replace(' ', '-')}"
            made[name] = Stage(lab.machine, SCENARIOS[name], lab.argv, begin)
        return made[name]

    yield stage
    lab.close()


@pytest.mark.parametrize(
    ("name", "mode", "error"),
    [
        ("second run", "kill", 0),
        ("resumed", "power", 0),
        ("merged again", "kill", 0),
        ("first run", "fail_on", errno.ENOSPC),
    ],
)
def test_struck_at_a_few_points_nothing_is_lost(stages, name, mode, error):
    stage = stages(name)
    drawn = random.Random(f"{SEED} {name} {mode}")
    for point in drawn.sample(range(stage.calls), 2):
        stage.strike(point, mode, error)


def test_a_push_changes_no_file_so_that_there_is_no_point_to_kill_it_at(stages):
    stage = stages("evaluated")
    stage.reset()
    before = tree(stage.run)
    words = ("--task", "push", "--push_to", "alice/mine", "--set=push_confirmed=true")
    pushed = stage.machine.run(stage.argv(words), patches={"stand_in_hub": []})
    assert pushed.code == 0, pushed.errors
    assert pushed.calls == 0
    assert tree(stage.run) == before


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kill", "power", "torn"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_ended_at_any_call_nothing_is_lost(stages, name, mode):
    stage = stages(name)
    for point in range(stage.calls):
        stage.strike(point, mode)
    print(f"{name}: {mode} at {stage.calls} points")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fail_once", "fail_on", "short"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_where_any_call_fails_the_task_ends_with_a_message_or_goes_on_as_if_it_had_not(stages, name, mode):
    stage = stages(name)
    for point in range(stage.calls):
        stage.strike(point, mode, 0 if mode == "short" else list(ERRORS.values())[point % len(ERRORS)])
    print(f"{name}: {mode} at {stage.calls} points")


def test_a_broken_off_archive_is_taken_away_by_a_run_that_goes_on(stages):
    stage = stages("resumed at its end")
    stage.reset()
    rubbish = stage.run / ".lorakit-writing-previous"
    rubbish.mkdir()
    (rubbish / "events.jsonl").hardlink_to(stage.run / "events.jsonl")
    assert stage.go_on("a broken-off archive").endswith("resume=true")
    assert not rubbish.exists()
