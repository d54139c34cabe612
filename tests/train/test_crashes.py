"""Runs that are killed, starved of space, or disturbed: nothing is lost, and what goes on is the same run."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from trained import ROWS, assert_same_adapter, recorded

from lorakit.engine.backends import number_format
from lorakit.engine.backends.cpu import backend
from lorakit.engine.backends.cpu.levels import NoKernelsError
from lorakit.runs import EvaluationRecord, RecordLog, StepRecord, checkpoints, fault_in, writing_alone

EPOCHS, KILLS = 12, 12
STEPS = 3 * EPOCHS


@pytest.fixture
def words(model_folder, write_rows):
    """The command line of a short run that saves after every step, without its folder."""
    settings = {
        "train_file": write_rows(ROWS, "train.json"),
        "validation_file": "null",
        "torch_dtype": "float32",
        "lora_dropout": "0.1",
        "target_modules": "all-linear",
        "max_new_tokens": "4",
        "trainer_args": "{save_strategy: steps, save_steps: 1}",
    }
    assignments = [f"--set={name}={value}" for name, value in settings.items()]
    model = ["--model_name_or_path", str(model_folder("llama")), "--num_train_epochs", str(EPOCHS)]
    config = Path(write_rows([], "empty.yaml"))
    config.write_text("")
    return ["--task", "train", "--config", str(config), *model, *assignments]


def start(words, folder, *extra, **options):
    command = [sys.executable, str(ROOT / "main.py"), *words, "--output_dir", str(folder), *extra]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def finish(process):
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def losses(folder):
    return [(record.step, record.loss, record.grad_norm) for record in recorded(folder, StepRecord)]


def steps_done(folder):
    file = folder / "events.jsonl"
    return file.read_text().count('"event": "step"') if file.is_file() else 0


def wait_until(process, is_reached):
    """Wait for a moment, or for the end of the process."""
    while process.poll() is None and not is_reached():
        os.sched_yield()


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_a_run_killed_at_a_dozen_random_moments_ends_as_if_it_never_was(words, tmp_path):
    code, errors = finish(start(words, tmp_path / "unbroken"))
    assert code == 0, errors
    killed, drawn = tmp_path / "killed", random.Random(5)
    writing = killed / ".lorakit-writing-checkpoint"
    moments = sorted(drawn.sample(range(2, STEPS - 1), KILLS))
    kills = in_saving = 0
    process = start(words, killed)
    for step in moments:
        wait_until(process, lambda step=step: steps_done(killed) >= step)
        if drawn.random() < 0.6:  # in the middle of writing a checkpoint, between any two of its files
            files = drawn.randrange(1, 6)
            wait_until(
                process,
                lambda files=files, step=step: len(list(writing.rglob("*.*"))) >= files or steps_done(killed) > step,
            )
        if process.poll() is not None:  # a fast machine came to the end before it could be killed once more
            break
        kill(process)
        kills += 1
        in_saving += writing.exists()
        assert any(fault_in(checkpoint) is None for checkpoint in checkpoints(killed))
        assert not (killed / "lora_model").exists()
        process = start(words, killed, "--set", "resume=true")
    code, errors = finish(process)
    assert code == 0, errors
    assert kills >= 3
    assert in_saving >= 1
    assert losses(killed) == losses(tmp_path / "unbroken")
    assert_same_adapter(tmp_path / "unbroken", killed, rtol=0, atol=0)


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(command, capsys):
    settings = ("--num_train_epochs", "3", "--set", "lora_dropout=0.1")
    _, unbroken = command(*settings, folder="unbroken")
    _, folder = command(*settings)
    (folder / "checkpoint-9" / "optimizer.safetensors").write_bytes(b"")
    code, resumed = command(*settings, "--set", "resume=true")
    assert code == 0
    assert "checkpoint-9 is passed over: optimizer.safetensors is damaged" in capsys.readouterr().err
    assert_same_adapter(unbroken, resumed, rtol=0, atol=0)


def test_a_resumed_run_with_other_rows_goes_on_only_by_force(command, write_rows, capsys):
    _, _folder = command("--num_train_epochs", "1")
    other = f"--set=train_file={write_rows([*ROWS[:-1], ROWS[0]], 'other.json')}"
    assert command("--num_train_epochs", "1", other, "--set", "resume=true")[0] == 2
    assert "the training rows have changed" in capsys.readouterr().err
    assert command("--num_train_epochs", "1", other, "--set", "resume=force")[0] == 0
    assert "resumed by force though the training rows have changed" in capsys.readouterr().err


def test_what_was_chosen_by_itself_is_kept_by_a_resumed_run(command, monkeypatch):
    _, folder = command("--num_train_epochs", "1", "--set", "torch_dtype=auto")
    chosen = json.loads((folder / "run.json").read_text())["dtype"]
    monkeypatch.setattr(number_format, "_bfloat16_speedup", lambda: 0.5 if chosen == "bfloat16" else 2.0)
    code, folder = command("--num_train_epochs", "1", "--set", "torch_dtype=auto", "--set", "resume=true")
    assert code == 0
    assert json.loads((folder / "run.json").read_text())["dtype"] == chosen


@pytest.mark.every(0)
def test_a_resumed_run_computes_with_or_without_kernels_as_before(command, monkeypatch, capsys):
    _, folder = command("--num_train_epochs", "1", "--set", "cpu_kernels=false")
    code, _ = command("--num_train_epochs", "1", "--set", "resume=true")
    assert code == 0
    assert "PyTorch (as in the run that is resumed)" in capsys.readouterr().err
    assert json.loads((folder / "run.json").read_text())["kernels"] is False
    command("--num_train_epochs", "1")
    monkeypatch.setattr(backend, "load", no_compiler)
    code, _ = command("--num_train_epochs", "1", "--set", "resume=true")
    assert code == 2
    assert "was another one (cpu_kernels computed it, and cannot here)" in capsys.readouterr().err
    code, _ = command("--num_train_epochs", "1", "--set", "resume=force")
    assert code == 0


def no_compiler(source):
    raise NoKernelsError("there is no C++ compiler")


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_the_last_checkpoint_intact(words, tmp_path):
    """A limit on the size of files fails a write as a full disk does, in every library."""
    folder = tmp_path / "run"

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = start(words, folder)
    wait_until(process, lambda: len(checkpoints(folder)) >= 2)
    kill(process)
    before = {path.name for path in checkpoints(folder) if fault_in(path) is None}
    code, errors = finish(start(words, folder, "--set", "resume=true", preexec_fn=small_files))
    assert code == 2, errors
    assert "can no longer be written" in errors
    assert "Traceback" not in errors
    assert before <= {path.name for path in checkpoints(folder) if fault_in(path) is None}


def test_a_folder_that_vanishes_ends_the_run_with_a_clear_error(command, monkeypatch, capsys):
    append = RecordLog.append

    def append_and_remove(self, record):
        append(self, record)
        if isinstance(record, StepRecord) and record.step == 2:
            shutil.rmtree(self._file.parent)

    monkeypatch.setattr(RecordLog, "append", append_and_remove)
    code, _ = command("--num_train_epochs", "1")
    errors = capsys.readouterr().err
    assert code == 2
    assert "can no longer be written (No such file or directory)" in errors


def test_a_second_run_into_the_same_folder_is_refused(command, capsys, tmp_path):
    with writing_alone(tmp_path / "run"):
        code, folder = command("--num_train_epochs", "1")
    assert code == 2
    assert "another run is writing into" in capsys.readouterr().err
    assert not (folder / "events.jsonl").exists()


def test_early_stopping_keeps_the_best_adapter(command, capsys):
    settings = ("--num_train_epochs", "40", "--learning_rate", "0.3", "--set", "early_stopping_patience=2")
    code, folder = command(*settings)
    assert code == 0
    validations = recorded(folder, EvaluationRecord)
    best = min(validations, key=lambda record: record.loss)
    assert len(validations) == validations.index(best) + 3 < 40
    results = json.loads((folder / "eval_results.json").read_text())
    assert results["tuned"]["loss"] == pytest.approx(best.loss, rel=1e-5)
