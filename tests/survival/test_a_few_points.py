"""The fast tier: a few points at which a task is struck, and a few runs that are cut, drawn by a seed; one lab for all.

The slow tier strikes all points (`test_crash_points.py`) and cuts two hundred runs (`test_cut_and_resume.py`).
"""

import errno
import random

import pytest
from survival.cuts import check, runs
from survival.lab import lab_fixture, needs_shim
from survival.machine import tree
from survival.test_cut_and_resume import SETTINGS

pytestmark = needs_shim
SEED = 20


lab = lab_fixture()


@pytest.mark.parametrize(
    ("name", "calls", "mode", "error"),
    [
        ("second run", 250, "kill", 0),
        ("resumed", 90, "power", 0),
        ("first run", 170, "fail_on", errno.ENOSPC),
    ],
)
def test_struck_at_a_point_nothing_is_lost(lab, name, calls, mode, error):
    point = random.Random(f"{SEED} {name} {mode}").randrange(calls)
    assert lab.stage(name).sweep([(mode, error)], [point])[mode] == 1


WITHOUT_PICTURES = [(number, run) for number, run in enumerate(runs(SETTINGS)) if run["pictures"] is None]


@pytest.mark.parametrize(("number", "run"), WITHOUT_PICTURES[:1])
def test_a_run_cut_anywhere_and_resumed_equals_the_uncut_one(lab, number, run):
    check(lab, number, run)


def test_a_push_changes_no_file_so_that_there_is_no_point_to_kill_it_at(lab):
    stage = lab.stage("evaluated")
    stage.reset()
    before = tree(stage.run)
    words = ("--task", "push", "--push_to", "alice/mine", "--set=push_confirmed=true")
    pushed = stage.machine.run(stage.argv(words), patches={"stand_in_hub": []})
    assert pushed.code == 0, pushed.errors
    assert pushed.calls == 0
    assert tree(stage.run) == before


@pytest.mark.slow
def test_a_broken_off_archive_is_taken_away_by_a_run_that_goes_on(lab):
    stage = lab.stage("resumed at its end")
    stage.reset()
    rubbish = stage.run / ".lorakit-writing-previous"
    rubbish.mkdir()
    (rubbish / "events.jsonl").hardlink_to(stage.run / "events.jsonl")
    assert stage.go_on("a broken-off archive").endswith("resume=true")
    assert not rubbish.exists()
