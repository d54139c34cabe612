"""Checkpoints and folders that crashes and strangers leave: passed over, refused in one sentence, or not read."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from bad_input import Lab, listed_anew
from safetensors.torch import load_file, save_file

from lorakit.cli import main


class Dangerous:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.write_text, (self.trace, "has run")


@pytest.fixture(scope="module")
def run_left(model_folder, tmp_path_factory):
    """What a run of a few steps leaves."""
    folder = tmp_path_factory.mktemp("run")
    lab = Lab(folder, model_folder, folder / "none")
    assert main(command(lab, "1")) == 0
    return folder / "out"


def command(lab, epochs, *more):
    quick = ("--set=max_new_tokens=1", "--set=cpu_kernels=false", "--learning_rate", "0.01")
    return lab.command("train", "--num_train_epochs", epochs, *quick, *more)


@pytest.fixture
def lab(run_left, model_folder, tmp_path, monkeypatch):
    shutil.copytree(run_left, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    return Lab(tmp_path, model_folder, tmp_path / "none")


def newest(lab):
    return max((lab.folder / "out").glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def resumed(lab, capsys):
    capsys.readouterr()
    code = main(command(lab, "2", "--set=resume=force"))
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert "internal error" not in said
    return code, said


def test_pickles_in_a_checkpoint_are_not_opened(lab, capsys, monkeypatch):
    def refuse(*args, **how):
        raise AssertionError("torch.load was called")

    monkeypatch.setattr(torch, "load", refuse)
    for name in ("pytorch_model.bin", "adapter_model.bin", "optimizer.pt", "scheduler.pt", "training_args.bin"):
        (newest(lab) / name).write_bytes(pickle.dumps(Dangerous(lab.folder / "trace")))
    (newest(lab) / "rng_state.pth").write_bytes(pickle.dumps(Dangerous(lab.folder / "trace")))
    (newest(lab) / "pytorch_model_fsdp_0").mkdir()
    code, said = resumed(lab, capsys)
    assert code == 0, said
    assert not (lab.folder / "trace").exists()


def replaced_by(tensors, **metadata):
    return lambda file: save_file(tensors, file, metadata=metadata)


def without_one(file):
    tensors = load_file(file)
    tensors.pop(min(tensors))
    save_file(tensors, file, metadata={"format": "pt"})


def of_other_shapes(file):
    save_file({name: torch.zeros(2, 2) for name in load_file(file)}, file, metadata={"format": "pt"})


REFUSED = {
    "an adapter without a tensor": ("adapter_model.safetensors", without_one),
    "an adapter of other shapes": ("adapter_model.safetensors", of_other_shapes),
    "an adapter without a byte": ("adapter_model.safetensors", lambda file: file.write_bytes(b"")),
    "an optimizer without a tree": ("optimizer.safetensors", replaced_by({})),
    "an optimizer of a tree that is none": ("optimizer.safetensors", replaced_by({}, tree="{")),
    "an optimizer that is a number": ("optimizer.safetensors", replaced_by({}, tree="5")),
    "an optimizer of unknown parts": ("optimizer.safetensors", replaced_by({}, tree='{"object": []}')),
    "an optimizer of tensors that are not there": ("optimizer.safetensors", replaced_by({}, tree='{"tensor": "9"}')),
    "an optimizer nested without end": ("optimizer.safetensors", replaced_by({}, tree='{"list": [' * 5000)),
    "random numbers that are none": ("random-0.safetensors", replaced_by({}, tree='{"mapping": [["python", 5]]}')),
}


@pytest.mark.every(3)
@pytest.mark.parametrize("kind", REFUSED)
def test_a_part_that_cannot_be_read_is_named(lab, capsys, kind):
    name, damage = REFUSED[kind]
    damage(newest(lab) / name)
    listed_anew(newest(lab))
    code, said = resumed(lab, capsys)
    assert code == 2
    assert f"{name}: does not belong to this run, or is damaged" in said
    assert "hint: remove that checkpoint's folder" in said


STATES = {
    "no JSON": lambda state: "{",
    "a list": lambda state: [],
    "an unknown field": lambda state: state | {"own": 1},
    "another step": lambda state: state | {"global_step": 99999},
    "a step that is text": lambda state: state | {"global_step": "1"},
    "callbacks that are text": lambda state: state | {"stateful_callbacks": "x"},
    "callbacks that set what they like": lambda state: (
        state | {"stateful_callbacks": {"TrainerControl": {"attributes": {"should_training_stop": ["x"]}}}}
    ),
    "a history that is a number": lambda state: state | {"log_history": 5},
    "an epoch that is none": lambda state: state | {"epoch": float("nan")},
    "a best checkpoint that is a number": lambda state: state | {"best_model_checkpoint": 5},
}


@pytest.mark.parametrize("kind", STATES)
def test_a_state_that_cannot_be_is_passed_over(lab, capsys, kind):
    for checkpoint in (lab.folder / "out").glob("checkpoint-*"):
        file = checkpoint / "trainer_state.json"
        changed = STATES[kind](json.loads(file.read_text()))
        file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
        listed_anew(checkpoint)
    code, said = resumed(lab, capsys)
    assert code == 2
    assert "is passed over: trainer_state.json" in said


def test_a_best_checkpoint_elsewhere_is_not_read(lab, capsys, tmp_path):
    elsewhere = tmp_path / "elsewhere" / newest(lab).name
    shutil.copytree(newest(lab), elsewhere)
    (elsewhere / "adapter_model.safetensors").write_bytes(b"")
    file = newest(lab) / "trainer_state.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"best_model_checkpoint": str(elsewhere), "best_metric": -1e9})
    )
    listed_anew(newest(lab))
    code = main(command(lab, "2", "--set=resume=force", "--set=load_best_model=true"))
    assert code == 0, capsys.readouterr().err


EVENTS = {
    "an unknown kind": '{"event": "own"}',
    "no kind": "{}",
    "a number": "5",
    "a null": "null",
    "a list": '["step"]',
    "a kind that is a list": '{"event": []}',
    "a step without its fields": '{"event": "step", "step": 1}',
    "a step with more fields": '{"event": "memory", "step": 1, "peak_bytes": "many"}',
    "nested without end": "[" * 100_000,
}


@pytest.mark.every(3)
@pytest.mark.parametrize("kind", EVENTS)
def test_a_whole_line_that_is_no_record_is_named(lab, capsys, kind):
    with open(lab.folder / "out" / "events.jsonl", "a") as stream:
        stream.write(EVENTS[kind] + "\n")
    code, said = resumed(lab, capsys)
    assert code == 2
    assert "events.jsonl line" in said
    assert "is no record of a run" in said


IDENTITIES = ("{", "[]", "5", "null", '{"settings": 5}', "[" * 100_000, b"\xff\xfe")


@pytest.mark.parametrize("content", IDENTITIES)
def test_an_identity_that_is_none_is_named(lab, capsys, content):
    file = lab.folder / "out" / "run.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, said = resumed(lab, capsys)
    assert code == 2
    assert "run.json" in said


def as_file(path):
    if path.is_dir():
        shutil.rmtree(path)
    path.write_text("taken")


def as_folder(path):
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "own").write_text("whole")


TAKEN = {
    "previous": as_file,
    "lora_model": as_file,
    ".lock": as_folder,
    "events.jsonl": as_folder,
    "run.json": as_folder,
    "config_used.yaml": as_folder,
    "eval_results.json": as_folder,
    "report.html": as_folder,
    "loss_curve.png": as_folder,
}


@pytest.mark.every(5)
@pytest.mark.parametrize("name", TAKEN)
def test_a_file_where_a_folder_should_be_and_the_reverse_is_one_sentence(lab, capsys, name):
    TAKEN[name](lab.folder / "out" / name)
    capsys.readouterr()
    code = main(command(lab, "1"))
    said = capsys.readouterr().err
    assert code in (0, 2)
    assert "Traceback" not in said
    assert "internal error" not in said
    assert code == 0 or [line for line in said.splitlines() if line.startswith("error: ")]
