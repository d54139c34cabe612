import dataclasses
import math
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

from jobs import Work
from measure import Child
from results import Run, fault_of, read_run, summarise

WORK = Work(
    rows=16, tokens=1000, target_tokens=400, layer_parameters=10, vocabulary=3, hidden=2, rows_source="generated"
)


def run(**changes):
    values = {
        "step_seconds": (6.0, 2.0),
        "losses": (2.0, 1.0),
        "grad_norms": (0.5, 0.25),
        "rows": 16,
        "target_tokens": 400,
        "peak_bytes": 3_000_000_000,
        "first_step_seconds": 9.0,
    }
    return Run(**{**values, **changes})


def summary(*runs):
    return summarise(runs or [run()], WORK, rows_per_step=8, gemm_gflops=1e-6)


def child(*events, failure=None):
    return Child(failure, 5, 1.5, events)


def step(**changes):
    return {"event": "step", "step": 1, "loss": 2.0, "grad_norm": 0.5, "step_seconds": 6.0, **changes}


def test_the_arithmetic_is_four_operations_a_weight():
    assert WORK.flop == 4 * 10 * 1000 + 4 * 3 * 2 * 400


def test_speed_is_the_rows_of_the_job_over_all_steps_and_over_all_but_the_first():
    found = summary()
    assert found.samples_per_second == 16 / 8
    assert found.samples_per_second_after_first_step == 8 / 2
    assert found.target_tokens_per_second == 400 / 8
    assert found.gemm_share == pytest.approx(49_600 / 8 / 1000)


def test_of_several_runs_the_median_counts():
    found = summary(run(), run(step_seconds=(60.0, 20.0)), run(step_seconds=(7.0, 3.0), peak_bytes=5_000_000_000))
    assert found.samples_per_second == 16 / 10
    assert found.peak_gigabytes == 3.0
    assert found.runs == 3


def test_the_last_loss_is_the_mean_of_two_steps():
    found = summary(run(step_seconds=(1.0,) * 4, losses=(9.0, 5.0, 3.0, 1.0), grad_norms=(1.0,) * 4))
    assert (found.first_loss, found.mean_loss, found.final_loss) == (9.0, 4.5, 2.0)


def test_packed_steps_share_the_rows_equally():
    found = summary(run(step_seconds=(4.0, 2.0, 2.0, 0.0), losses=(1.0,) * 4, grad_norms=(1.0,) * 4))
    assert found.samples_per_second_after_first_step == 12 / 4


def test_a_single_step_leaves_nothing_after_the_first():
    found = summary(run(step_seconds=(6.0,), losses=(2.0,), grad_norms=(0.5,)))
    assert math.isnan(found.samples_per_second_after_first_step)


def test_events_of_a_peer_are_counted_from_its_data_line():
    found = read_run(child({"event": "data", "rows": 16, "target_tokens": 416}, step(), step(step=2)))
    assert (found.rows, found.target_tokens, found.peak_bytes) == (16, 416, 5)


def test_events_of_lorakit_are_counted_step_by_step():
    found = read_run(child(step(rows=8, target_tokens=150), step(rows=8, target_tokens=250)))
    assert (found.rows, found.target_tokens) == (16, 400)


def test_a_process_that_failed_or_left_no_step_is_no_run():
    assert read_run(child(step(), failure="ended with 1: ImportError")) == "failed: ended with 1: ImportError"
    assert read_run(child()) == "failed: it left no record of a step"


def test_a_tool_that_learns_as_the_reference_counts():
    assert fault_of(summary(), summary(), WORK, packs=False) is None
    assert fault_of(summary(), None, WORK, packs=False) is None


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"grad_norms": (0.5, 0.0)}, "gradient norm is zero"),
        ({"grad_norms": (0.5, math.nan)}, "gradient norm is zero or missing"),
        ({"losses": (2.0, math.nan)}, "not finite"),
        ({"rows": 15}, "trained 15 of 16 rows"),
        ({"target_tokens": 1000}, "trained 1000 target tokens"),
        ({"losses": (2.05, 1.0)}, "loss of the first step 2.050"),
    ],
)
def test_a_tool_that_does_other_work_does_not_count(changes, fault):
    assert fault in fault_of(summary(run(**changes)), summary(), WORK, packs=False)


def test_a_line_break_after_every_answer_is_forgiven():
    assert fault_of(summary(run(target_tokens=416)), summary(), WORK, packs=False) is None


@pytest.mark.parametrize(("losses", "counts"), [((2.0, 1.5), True), ((2.0, 1.7), False), ((1.5, 1.0), True)])
def test_packing_is_held_to_the_mean_loss_of_the_epoch(losses, counts):
    fault = fault_of(summary(run(losses=losses)), summary(), WORK, packs=True)
    assert (fault is None) is counts


def test_one_bad_run_of_three_is_enough_for_a_missing_gradient():
    found = summary(run(), run(grad_norms=(0.0, 0.5)), run())
    assert dataclasses.asdict(found)["least_grad_norm"] == 0.0
