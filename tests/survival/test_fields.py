"""Fields of TrainingArguments: obeyed by several processes as by one, or without effect on a single bit."""

import json

import pytest
from survival.lab import lab_fixture, needs_shim
from survival.processes import SEVEN, assert_same, trained
from trainer_fields import CHANGING, OF_THE_COURSE, WITHOUT_EFFECT

pytestmark = [needs_shim, pytest.mark.slow]
RATE, TOO_HIGH = 0.02, 0.3  # the adapter of the best validation is not the last one
# Adam divides gradients by their own size, and with them the rounding of those that are almost zero.
SHARE_OF_STEP = 1e-2


lab = lab_fixture(rows=SEVEN)


@pytest.fixture(scope="module")
def plain(lab):
    """The adapter of a run without any of them."""
    return learnt(lab, {})


def learnt(lab, arguments, ranks=1, rate=RATE):
    words = [
        f"--set=learning_rate={rate}",
        "--set=load_best_model=false",  # but where trainer_args say otherwise
        "--set=max_tokens_per_microbatch=120",
        f"--set=trainer_args={json.dumps(arguments)}",
        f"--per_device_train_batch_size={2 // ranks}",
    ]
    weights, _, outcome = trained(lab, words, ranks=ranks)
    assert "internal error" not in outcome.errors
    return weights


@pytest.mark.parametrize("name", CHANGING)
def test_what_changes_the_result_changes_it_alike_for_one_and_two_processes(lab, name):
    beside, value = CHANGING[name]
    arguments = beside | {name: value}
    rate = TOO_HIGH if "load_best_model_at_end" in arguments else RATE
    one, without = learnt(lab, arguments, rate=rate), learnt(lab, beside, rate=rate)
    assert any((one[key] != without[key]).any() for key in one)
    assert_same(one, learnt(lab, arguments, ranks=2, rate=rate), rtol=1e-4, atol=SHARE_OF_STEP * rate)


@pytest.mark.parametrize("name", OF_THE_COURSE)
def test_what_changes_the_course_only_gives_the_same_adapter_for_one_and_two_processes(lab, plain, name):
    assert_same(learnt(lab, OF_THE_COURSE[name]), plain, rtol=0, atol=0)
    assert_same(learnt(lab, OF_THE_COURSE[name], ranks=2), plain, rtol=1e-4, atol=SHARE_OF_STEP * RATE)


@pytest.mark.parametrize("name", WITHOUT_EFFECT)
def test_what_is_said_to_have_no_effect_has_none(lab, plain, name):
    assert_same(learnt(lab, {name: WITHOUT_EFFECT[name]}), plain, rtol=0, atol=0)
