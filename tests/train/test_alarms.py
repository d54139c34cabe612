"""Each alarm fires by its rule, and none on a run that goes well."""

import math

import pytest
import torch

from lorakit.errors import RunError
from lorakit.runs import EvaluationRecord, StepRecord
from lorakit.train.alarms import Alarms

MOVED, STILL = [torch.ones(2)], [torch.zeros(2)]


class Run:
    """A run as the alarms see it."""

    def __init__(self, lora_b=MOVED, vocabulary=1000, keeps_best=False):
        self.warnings = []
        self.alarms = Alarms(vocabulary, lambda: lora_b, self.warnings.append, keeps_best)
        self.steps = 0

    def step(self, loss=2.0, norm=1.0, rate=1e-3, is_scaled=False):
        self.steps += 1
        record = StepRecord(self.steps, 0.0, loss, rate, norm, 1, 10, 5, 0.1)
        self.alarms.step(record, lambda: "train.json item 7", is_scaled)

    def evaluate(self, *losses):
        for loss in losses:
            self.alarms.evaluation(EvaluationRecord(self.steps, 0.0, loss, 1, 1, 0.1))


def test_a_run_that_goes_well_hears_nothing():
    run = Run()
    for number in range(50):
        run.step(loss=3.0 / (number + 1), norm=1 + number % 3, rate=1e-4 * min(number + 1, 5))
        run.evaluate(2.0 / (number + 1))
    assert run.warnings == []


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_names_the_rows_of_its_step(norm):
    with pytest.raises(RunError, match=r"step 1: the gradient is not finite, on train\.json item 7"):
        Run().step(norm=norm)


def test_a_scaled_gradient_may_overflow_now_and_then_but_not_for_ever():
    run = Run()
    for _ in range(10):
        run.step(norm=math.inf, is_scaled=True)
    with pytest.raises(RunError, match="not finite"):
        run.step(norm=math.inf, is_scaled=True)


def test_a_gradient_of_zero_ends_a_new_run_and_warns_in_an_old_one():
    with pytest.raises(RunError, match="exactly zero, so nothing is learnt"):
        Run().step(norm=0.0)
    run = Run()
    for norm in (1, 1, 1, 0.0, 0.0):
        run.step(norm=norm)
    assert run.warnings == ["step 4: the gradient is exactly zero, on train.json item 7"]


def test_an_adapter_that_has_not_moved_after_three_moving_steps_ends_the_run():
    run = Run(STILL)
    run.step(rate=0.0)
    run.step()
    run.step()
    with pytest.raises(RunError, match="step 4: every lora_B is still zero"):
        run.step()


def test_a_first_loss_far_above_guessing_points_to_the_template():
    run = Run()
    run.step(loss=math.log(1000) + 2.1)
    assert "guessing would give 6.91" in run.warnings[0]
    well = Run()
    well.step(loss=math.log(1000) + 1.9)
    assert well.warnings == []


def test_spikes_of_loss_gradient_and_learning_rate_are_named_once():
    run = Run()
    for _ in range(12):
        run.step()
    run.step(loss=6.0)
    run.step(loss=2.1, norm=21.0)
    run.step(rate=0.1)
    run.step(loss=7.0)
    assert [warning.partition(":")[0] for warning in run.warnings] == ["step 13", "step 14", "step 15"]
    assert "jumped from about 2.00 to 6.00" in run.warnings[0]


def test_a_validation_loss_that_rises_three_times_in_a_row_and_far_is_named():
    run = Run()
    run.evaluate(1.0, 0.9, 0.92, 0.94, 0.96)
    run.evaluate(0.8, 0.9, 1.0, 0.95, 1.0, 1.1)
    assert run.warnings == []
    run.evaluate(1.2)
    assert "risen 3 times in a row, to 1.200 from 0.800" in run.warnings[0]
    assert "set early_stopping_patience, or load_best_model" in run.warnings[0]


def test_where_the_best_adapter_is_kept_a_rising_validation_loss_costs_only_time():
    run = Run(keeps_best=True)
    run.evaluate(0.8, 0.9, 1.0, 1.2)
    assert "the best adapter is the one that is kept; fewer epochs take less time" in run.warnings[0]
