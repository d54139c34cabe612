"""What a run decides before its first step, seen from the command line."""

import os
import re
import shutil
import signal

import pytest
from trained import assert_same_adapter, recorded

from lorakit.engine import memory as memory_module
from lorakit.engine.layers import compilation as compilation_module
from lorakit.runs import MemoryRecord, PlanRecord, RecordLog, StepRecord

EPOCH = ("--num_train_epochs", "1")


def test_the_plan_is_shown_recorded_and_held_against_the_peak(command, capsys):
    _, folder = command(*EPOCH)
    message = capsys.readouterr().err
    [plan], [memory] = recorded(folder, PlanRecord), recorded(folder, MemoryRecord)
    assert plan.max_tokens == 1024
    assert plan.planned_bytes == sum(plan.planned_parts.values())
    assert f"about {plan.planned_bytes / 1e9:.2f} GB of the machine's" in message
    assert f"peak memory {memory.peak_bytes / 1e9:.2f} GB, planned {plan.planned_bytes / 1e9:.2f}" in message
    assert not plan.is_checkpointed
    assert "kernels               C++ (compiled for this processor)" in message
    assert "compiled              no (about 0.0 minutes to train" in message


def short_of_memory(monkeypatch, available, kept_per_token, seconds_per_token=1e-6):
    """Let the device have so much, and each token keep so much."""
    monkeypatch.setattr(memory_module, "_program_and_available", lambda device, model_bytes: (0, available))
    monkeypatch.setattr(
        "lorakit.train.planning.plan.probe", lambda *_: memory_module.Probe(kept_per_token, seconds_per_token)
    )


def test_where_a_row_does_not_fit_activations_are_computed_anew_with_the_same_result(command, monkeypatch, capsys):
    _, plain = command(*EPOCH, folder="plain")
    capsys.readouterr()
    short_of_memory(monkeypatch, available=60_000_000, kept_per_token=600_000)
    _, checkpointed = command(*EPOCH, folder="checkpointed")
    message = capsys.readouterr().err
    assert "activation checkpointing is switched on" in message
    assert "checkpointed)" in message
    assert recorded(checkpointed, PlanRecord)[0].is_checkpointed
    assert_same_adapter(plain, checkpointed, rtol=1e-4, atol=1e-6)


def test_where_even_that_is_not_enough_the_run_says_so(command, monkeypatch, capsys):
    short_of_memory(monkeypatch, available=2_000_000, kept_per_token=1_000_000)
    command(*EPOCH)
    assert "lower max_length, or choose a smaller model" in capsys.readouterr().err


def test_a_model_that_does_not_fit_at_all_is_an_error(command, monkeypatch, capsys):
    def probe(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("lorakit.train.planning.plan.probe", probe)
    code, _ = command(*EPOCH)
    assert code == 2
    assert "error: the model does not fit" in capsys.readouterr().err


@pytest.mark.every(3)
@pytest.mark.parametrize(
    "arguments", [EPOCH, ("--num_train_epochs", "20"), ("--set", "trainer_args={max_steps: 7}")], ids=str
)
def test_the_estimate_follows_the_work(command, monkeypatch, capsys, arguments):
    short_of_memory(monkeypatch, available=10**10, kept_per_token=1000, seconds_per_token=0.1)
    monkeypatch.setattr(compilation_module, "compiler_fault", lambda device: None)
    _, folder = command(*arguments, "--set", "cpu_kernels=false")
    tokens = sum(record.tokens for record in recorded(folder, StepRecord))
    estimate = re.search(r"about ([\d.]+) minutes to train", capsys.readouterr().err)
    assert float(estimate[1]) == pytest.approx(tokens * 0.1 / 60, rel=0.2)


def test_a_resumed_run_keeps_the_decisions(command, monkeypatch):
    append = RecordLog.append

    def append_and_interrupt(self, record):
        append(self, record)
        if isinstance(record, StepRecord) and record.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(RecordLog, "append", append_and_interrupt)
        patched.setattr("lorakit.train.planning.plan._ENOUGH_TOKENS", {"cpu": 300})
        command(folder="run")
    _, folder = command("--set", "resume=true", folder="run")
    [plan] = recorded(folder, PlanRecord)
    assert plan.max_tokens == 300


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_a_compiled_run_has_the_same_result(command, capsys):
    _, plain = command(*EPOCH, folder="plain")
    _, compiled = command(*EPOCH, "--set", "compile_layers=true", folder="compiled")
    assert "compiled              yes (as set in compile_layers)" in capsys.readouterr().err
    assert_same_adapter(plain, compiled, rtol=1e-3, atol=1e-5)
