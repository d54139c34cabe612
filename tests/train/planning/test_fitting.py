"""A run that does not fit: what would make it fit is named, or with auto_fit applied and kept."""

import pytest
import torch
import yaml
from trained import assert_same_adapter, interrupt_at, recorded

from lorakit.engine import MemoryPlan
from lorakit.engine import memory as memory_module
from lorakit.errors import ModelError
from lorakit.model_config import locate_model, weight_bytes
from lorakit.runs import PlanRecord, StepRecord, read_identity
from lorakit.train.planning import plan as planning
from lorakit.train.planning import trial
from lorakit.train.setup import preparing
from lorakit.train.setup.remedies import Remedy, candidates

EPOCH = ("--num_train_epochs", "1")
FIT = ("--set", "auto_fit=true")
LARGE_BUDGET = ("--per_device_train_batch_size", "5", "--set", "max_tokens_per_microbatch=1000")
CHECKPOINTED = {"trainer_args": {"activation_checkpointing": True}}


def short_of_memory(monkeypatch, available=60_000_000, kept_per_token=600_000):
    """Let the device have so much, and each token keep so much."""
    monkeypatch.setattr(memory_module, "_program_and_available", lambda device, model_bytes: (0, available))
    monkeypatch.setattr(planning, "probe", lambda *_: memory_module.Probe(kept_per_token, 1e-6))


def used(folder):
    return yaml.safe_load((folder / "config_used.yaml").read_text())


def test_what_makes_a_run_fit_is_named_as_settings_to_copy(command, monkeypatch, capsys):
    short_of_memory(monkeypatch)
    code, folder = command(*LARGE_BUDGET, task="plan")
    said = "".join(capsys.readouterr())
    assert code == 0
    assert "GB are needed where there are 0.1: --set max_tokens_per_microbatch=" in said
    assert "\n  to change                 --set max_tokens_per_microbatch=" in said
    assert not folder.exists()


def test_auto_fit_plans_what_a_training_would_then_do(command, monkeypatch, capsys):
    short_of_memory(monkeypatch)
    assert command(*LARGE_BUDGET, *FIT, task="plan")[0] == 0
    said = "".join(capsys.readouterr())
    assert "auto_fit: max_tokens_per_microbatch is " in said
    assert ", it was 1000: about 0.1 GB are needed where there are 0.1" in said
    assert "\n  to change                 nothing" in said


def test_auto_fit_trains_with_other_settings_keeps_them_and_resumes_with_them(command, monkeypatch, capsys):
    arguments = (*LARGE_BUDGET, *FIT, "--num_train_epochs", "4", "--set", "lora_dropout=0.1")
    with monkeypatch.context() as patched:
        short_of_memory(patched)
        code, unbroken = command(*arguments, folder="unbroken")
        assert code == 0
        interrupt_at(patched, 2)
        assert command(*arguments)[0] == 130
    code, folder = command(*arguments, "--set", "resume=true")
    assert code == 0, capsys.readouterr().err
    [plan] = recorded(folder, PlanRecord)
    assert plan.max_tokens == used(folder)["max_tokens_per_microbatch"] == used(unbroken)["max_tokens_per_microbatch"]
    assert plan.max_tokens < 1000
    assert plan.is_checkpointed
    assert used(folder)["trainer_args"] == CHECKPOINTED["trainer_args"]
    assert_same_adapter(unbroken, folder, rtol=0, atol=0)


def test_where_nothing_makes_it_fit_auto_fit_ends_with_an_error(command, monkeypatch, capsys):
    short_of_memory(monkeypatch, available=2_000_000, kept_per_token=1_000_000)
    code, folder = command(*EPOCH, *FIT)
    message = capsys.readouterr().err
    assert code == 2
    assert "GB are needed where there are 0.0\nhint: lower max_length, or choose a smaller model" in message
    assert not (folder / "events.jsonl").exists()


def has_few_bits(model):
    return any(type(module).__name__ == "Linear8bitLt" for module in model.modules())


@pytest.fixture
def device_of_few_bits(monkeypatch):
    """Memory runs out unless the weights are in 8 bits, which a CPU is offered as a GPU would be."""
    pytest.importorskip("bitsandbytes")
    plain = trial.summed_loss

    def summed_loss(model, micro_batch):
        if not has_few_bits(model):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(model, micro_batch)

    def smaller_weights(config, model, arguments):
        return [] if config.load_in_8bit else [({"load_in_8bit": True}, 1000)]

    with monkeypatch.context() as patched:
        patched.setattr(trial, "summed_loss", summed_loss)
        patched.setattr(planning, "_MOST_PROBE_TOKENS", 0)  # so that the trial has the longest micro-batch
        patched.setattr(planning, "_smaller_weights", smaller_weights)
        yield patched


def test_what_runs_out_of_memory_when_tried_is_changed_until_it_does_not(command, device_of_few_bits, capsys):
    arguments = ("--num_train_epochs", "2", "--per_device_train_batch_size", "1", *FIT)
    interrupt_at(device_of_few_bits, 3)
    code, folder = command(*arguments)
    said = capsys.readouterr().err
    assert code == 130
    assert said.index("auto_fit: trainer_args is {activation_checkpointing: true}") < said.index("auto_fit: load_in_8")
    assert "auto_fit: load_in_8bit is true, it was false: " in said
    assert "tokens at once do not fit into memory" in said
    assert used(folder)["load_in_8bit"] is True
    assert read_identity(folder).settings["load_in_8bit"] is True
    device_of_few_bits.undo()
    assert command(*arguments, "--set", "resume=true")[0] == 0
    assert used(folder)["load_in_8bit"] is True
    assert len(recorded(folder, StepRecord)) == 10


def test_without_auto_fit_it_is_an_error_that_names_them(command, device_of_few_bits, capsys):
    code, _ = command(*EPOCH, "--per_device_train_batch_size", "1")
    message = capsys.readouterr().err
    assert code == 2
    assert "--set 'trainer_args={activation_checkpointing: true}'" in message
    assert "--set load_in_8bit=true" in message


@pytest.fixture
def small_gpu(monkeypatch, model_folder):
    """Return a function that puts a GPU in place of the CPU, with free memory between the sizes of two kinds."""
    source = locate_model(str(model_folder("llama")), "huggingface")

    def put(larger, smaller):
        sizes = [weight_bytes(source, torch.float32, kind) if kind != "none" else 0 for kind in (larger, smaller)]
        monkeypatch.setattr(preparing, "choose_device", lambda: torch.device("cuda"))
        monkeypatch.setattr(preparing, "free_bytes", lambda device: sum(sizes) // 2)

    return put


@pytest.mark.parametrize(
    ("larger", "smaller", "hint"),
    [
        (None, "8bit", "hint: --set load_in_8bit=true (0.0 GB) or --set load_in_4bit=true (0.0 GB)"),
        ("8bit", "4bit", "hint: --set load_in_4bit=true"),
        ("4bit", "none", "hint: choose a smaller model: fewer bits would not make it fit"),
    ],
)
@pytest.mark.parametrize("task", ["plan", "train"])
def test_a_gpu_too_small_for_the_weights_is_told_of_fewer_bits(command, small_gpu, capsys, task, larger, smaller, hint):
    small_gpu(larger, smaller)
    assert command(task=task)[0] == 2
    message = capsys.readouterr().err
    assert "the weights take 0.00 GB where there are 0.00" in message
    assert hint in message


@pytest.mark.parametrize(("larger", "kind"), [(None, "8bit"), ("8bit", "4bit")])
def test_auto_fit_loads_them_in_fewer_bits(command, small_gpu, monkeypatch, capsys, larger, kind):
    def load_model(source, tokenizer, dtype, device, quantization, *_):
        raise ModelError(f"to be loaded in {quantization}")

    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr(preparing, "load_model", load_model)
    small_gpu(larger, kind)
    assert command(*FIT)[0] == 2
    message = capsys.readouterr().err
    assert f"auto_fit: load_in_{kind} is true, it was false: the weights take" in message
    assert f"error: to be loaded in {kind}" in message


class Planner:
    """Takes a byte a token, and half of it with checkpointing."""

    def plan(self, tokens, is_checkpointed):
        activations = tokens // 2 if is_checkpointed else tokens
        return MemoryPlan(1000, 0, 0, activations, 0, 0, 0, 0, tokens, is_checkpointed)


def test_remedies_stand_in_the_order_of_what_they_cost():
    planner = Planner()
    found = candidates(planner, planner.plan(800, False), 100, [({"load_in_4bit": True}, 700)])
    assert found == (
        Remedy({"max_tokens_per_microbatch": 100}, 1100),
        Remedy(CHECKPOINTED, 1400),
        Remedy({**CHECKPOINTED, "max_tokens_per_microbatch": 100}, 1050),
        Remedy({"load_in_4bit": True}, 1100),
        Remedy({"load_in_4bit": True, "max_tokens_per_microbatch": 100}, 400),
        Remedy({"load_in_4bit": True, **CHECKPOINTED}, 700),
        Remedy({"load_in_4bit": True, **CHECKPOINTED, "max_tokens_per_microbatch": 100}, 350),
    )
    assert str(found[2]) == (
        "--set 'trainer_args={activation_checkpointing: true}' --set max_tokens_per_microbatch=100 (0.0 GB)"
    )


def test_a_plan_that_computes_anew_and_row_by_row_already_can_only_take_fewer_bits():
    planner = Planner()
    assert candidates(planner, planner.plan(100, True), 100, []) == ()
