"""Several processes of one task, as forks that can be disturbed one by one: equal to one process, or soon ended."""

import signal

import pytest
import torch
from conftest import family_tokenizer
from survival.lab import Lab, lab_fixture, lab_with_pictures, needs_shim
from survival.processes import ROUNDING, SEVEN, assert_same, trained
from survival.scenarios import LONGEST_END, SHARDED
from trained import adapter_weights, recorded

from lorakit.runs import PlanRecord, StepRecord

pytestmark = [needs_shim, pytest.mark.slow]
EVERY_STEP = "--set=trainer_args={save_strategy: steps, save_steps: 1}"
SHARDED_EVERY_STEP = ("--set=trainer_args={save_strategy: steps, save_steps: 1, fsdp: true}", SHARDED[1])
lab = lab_fixture(rows=SEVEN)
pictures = lab_fixture(lab_with_pictures)


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """A model whose tokens each go to one of sixteen experts, so that a pass reaches few of them."""
    from transformers import AutoModelForCausalLM, Qwen3MoeConfig

    folder, tokenizer = tmp_path_factory.mktemp("experts"), family_tokenizer("qwen3")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes |= {"head_dim": 8, "intermediate_size": 48, "moe_intermediate_size": 16, "max_position_embeddings": 512}
    routes = {"num_experts": 16, "num_experts_per_tok": 1}
    torch.manual_seed(0)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
    model = AutoModelForCausalLM.from_config(Qwen3MoeConfig(vocab_size=len(tokenizer), **sizes, **routes, **ids))
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    made = Lab(folder, model=folder / "model", rows=SEVEN)
    yield made
    made.close()


@pytest.mark.parametrize(("count", "batch"), [(2, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("sharding", ["", ", fsdp: true"])
def test_they_train_what_one_process_trains(lab, count, batch, sharding):
    # Adam would divide a gradient that is all rounding by its own size.
    words = ["--learning_rate=0.3"]
    one, steps_of_one, _ = trained(
        lab, [*words, "--set=trainer_args={optim: sgd}", f"--per_device_train_batch_size={batch * count}"]
    )
    together = [f"--set=trainer_args={{optim: sgd{sharding}}}", f"--per_device_train_batch_size={batch}"]
    many, steps, _ = trained(lab, [*words, *together], ranks=count)
    assert [record.rows for record in steps] == [record.rows for record in steps_of_one]
    assert [record.loss for record in steps] == pytest.approx([record.loss for record in steps_of_one], rel=1e-5)
    assert_same(one, many, **ROUNDING)


@pytest.mark.parametrize("count", [2, 3])
def test_experts_that_some_processes_do_not_reach_are_trained_as_by_one(experts, count):
    # Adam would divide a gradient that is all rounding by its own size.
    words = ["--set=target_modules=all-linear", "--set=trainer_args={optim: sgd}", "--learning_rate=0.3"]
    words.append("--set=lora_dropout=0")
    one, steps_of_one, _ = trained(experts, [*words, f"--per_device_train_batch_size={count}"])
    many, steps, _ = trained(experts, [*words, "--per_device_train_batch_size=1"], ranks=count)
    assert any("experts" in name and "lora_B" in name and tensor.any() for name, tensor in one.items())
    assert [record.loss for record in steps] == pytest.approx([record.loss for record in steps_of_one], rel=1e-5)
    assert_same(one, many, **ROUNDING)


@pytest.mark.parametrize("part", [None, "train_projector", "train_vision"])
def test_rows_with_and_without_pictures_are_trained_as_by_one(pictures, part):
    words = ["--num_train_epochs=3", "--learning_rate=1e-3", *([f"--set={part}=true"] if part else [])]
    one, steps_of_one, _ = trained(pictures, [*words, "--per_device_train_batch_size=2"])
    many, steps, _ = trained(pictures, [*words, "--per_device_train_batch_size=1"], ranks=2)
    assert [record.loss for record in steps] == pytest.approx([record.loss for record in steps_of_one], rel=1e-5)
    assert_same(one, many, rtol=1e-4, atol=1e-5)  # Adam divides gradients by their own size: a hundredth of its step
    outcome = pictures.train([*words, "--set=trainer_args={fsdp: true}"], {}, ranks=2)
    assert set(outcome.codes) == {2}, outcome.errors
    assert outcome.errors.count("fsdp does not go together with rows that have pictures") == 1


@pytest.mark.parametrize("kind", ["torch", "c++", "python"])
@pytest.mark.parametrize("rank", [0, 1])
def test_memory_that_runs_out_in_the_backward_pass_of_one_of_them_halves_its_budget(lab, kind, rank):
    words = ["--per_device_train_batch_size=3", "--num_train_epochs=3"]
    whole, steps, _ = trained(lab, words, ranks=2)
    scarce = {str(rank): {"scarce_memory": [60, 1, kind, True]}}
    halved, steps_halved, outcome = trained(lab, words, ranks=2, patches_of=scarce)
    assert "out of memory" in outcome.errors
    if rank == 0:
        budgets = [record.max_tokens for record in recorded(lab.run, PlanRecord)]
        assert budgets[-1] < budgets[0]
    assert [record.loss for record in steps_halved] == pytest.approx([record.loss for record in steps], rel=1e-5)
    assert_same(whole, halved, **ROUNDING)


def test_memory_that_suffices_for_no_row_of_one_of_them_ends_all_with_one_message(lab):
    nothing = {"1": {"scarce_memory": [0, 1, "torch", True]}}
    outcome = lab.train(["--per_device_train_batch_size=1"], {}, ranks=2, patches_of=nothing)
    assert outcome.codes in ((0, 0), (2, 2)), outcome.errors
    outcome = lab.train(["--per_device_train_batch_size=1", *SHARDED], {}, ranks=2, patches_of=nothing)
    assert outcome.codes in ((0, 0), (2, 2)), outcome.errors


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGINT), (2, signal.SIGTERM)])
@pytest.mark.parametrize("extra", [(EVERY_STEP,), SHARDED_EVERY_STEP], ids=["ddp", "fsdp"])
def test_a_stop_that_reaches_one_of_three_stops_all_and_the_resumed_run_is_the_same(lab, extra, rank, number):
    words = ["--per_device_train_batch_size=1", "--num_train_epochs=3", *extra]
    unbroken, steps, _ = trained(lab, words, ranks=3)
    for step in (1, 4):
        outcome = lab.train(words, {}, ranks=3, patches_of={str(rank): {"stop_at": [step, int(number)]}})
        assert set(outcome.codes) == {130}, outcome.errors
        assert outcome.seconds < LONGEST_END
        outcome = lab.train([*words, "--set=resume=auto"], {}, ranks=3, is_new=False)
        assert set(outcome.codes) == {0}, outcome.errors
        assert recorded_numbers(lab.run) == [(record.step, record.loss, record.grad_norm) for record in steps]
        assert_same(unbroken, adapter_weights(lab.run), rtol=0, atol=0)


@pytest.mark.parametrize("skew_milliseconds", [5, 50, 500])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("extra", [(EVERY_STEP,), SHARDED_EVERY_STEP], ids=["ddp", "fsdp"])
def test_stops_that_reach_the_processes_apart_are_one_stop(lab, extra, count, skew_milliseconds):
    words = ["--per_device_train_batch_size=1", "--num_train_epochs=8", *extra]
    unbroken, steps, _ = trained(lab, words, ranks=count)
    late = {str(rank): {"stop_at": [2, int(signal.SIGTERM), 1 + rank * skew_milliseconds]} for rank in range(count)}
    outcome = lab.train(words, {}, ranks=count, patches_of=late)
    # A signal may reach a process that has stopped already, and has only to leave.
    assert 130 in outcome.codes, outcome.errors
    assert set(outcome.codes) <= {130, -signal.SIGTERM}, outcome.errors
    assert outcome.seconds < LONGEST_END
    outcome = lab.train([*words, "--set=resume=auto"], {}, ranks=count, is_new=False)
    assert set(outcome.codes) == {0}, outcome.errors
    assert recorded_numbers(lab.run) == [(record.step, record.loss, record.grad_norm) for record in steps]
    assert_same(unbroken, adapter_weights(lab.run), rtol=0, atol=0)


def recorded_numbers(folder):
    return [(record.step, record.loss, record.grad_norm) for record in recorded(folder, StepRecord)]


@pytest.mark.parametrize("extra", [(), ("--set=trainer_args={fsdp: true}",)], ids=["ddp", "fsdp"])
def test_more_processes_than_rows_train_what_one_trains(lab, extra):
    words = ["--num_train_epochs=3", "--set=max_rows=2"]
    one, _, _ = trained(lab, [*words, "--per_device_train_batch_size=3"])
    many, _, _ = trained(lab, [*words, "--per_device_train_batch_size=1", *extra], ranks=3)
    assert_same(one, many, **ROUNDING)
