"""Whatever is wrong with what a user gives: one message with place, fault and remedy, and nothing half-written."""

import json
import os
import shutil
from pathlib import Path

import bad_input_cases
import hostile_settings
import pytest
from bad_input import Lab
from trained import ROWS

from lorakit.cli import main

# What takes half a second or more, and has a sibling of its kind that takes less.
LONG = {
    "hostile data: Parquet texts without end",
    "hostile data: a spreadsheet with a row far down",
    "hostile adapter: a pattern of other layers that takes years",
    "hostile adapter: alphas by a pattern that takes years",
}
CASES = [
    pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.name in LONG else [])
    for case in bad_input_cases.ALL
]


@pytest.fixture(autouse=True)
def shorter_limits(monkeypatch):
    """What takes years need not take seconds here: test_bounds.py tries all cases with the limits themselves."""
    monkeypatch.setattr("lorakit.data_processing.templates.bounded.MOST_SECONDS", 1.0)
    monkeypatch.setattr("lorakit.data_processing.templates.bounded.MOST_BYTES", 300_000_000)
    monkeypatch.setattr("lorakit.model_config.adapters.layer_names._MOST_SECONDS", 0.25)


@pytest.fixture(scope="module")
def adapter_folder(model_folder, tmp_path_factory):
    """An adapter of the tiny Llama model, trained for a step or two."""
    folder = tmp_path_factory.mktemp("trained")
    lab = Lab(folder, model_folder, folder / "none")
    arguments = ["--num_train_epochs", "1", "--learning_rate", "0.01", "--set=max_new_tokens=1"]
    assert main(lab.command("train", *arguments)) == 0
    return folder / "out" / "lora_model"


@pytest.fixture
def lab(tmp_path, model_folder, adapter_folder):
    return Lab(tmp_path, model_folder, adapter_folder)


def left_in(folder):
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


@pytest.mark.every(5)
@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_with_one_message_and_nothing_half_written(case, lab, capsys, monkeypatch):
    monkeypatch.chdir(lab.folder)  # where ./output would be
    command = case.prepare(lab)
    capsys.readouterr()
    assert main(command) == 2
    said = capsys.readouterr()
    lines = said.err.splitlines()
    [first] = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    message = "\n".join(lines[first:])
    assert any(line.strip().startswith("hint: ") and len(line) > 12 for line in lines[first:]), message
    for word in case.words:
        assert word in message
    assert not any(value in said.err + said.out for value in hostile_settings.VALUES)
    assert "Traceback" not in said.err
    assert "internal error" not in said.err
    assert max(map(len, lines[first:])) < 1000, "a message is to be read"
    assert left_in(lab.folder / "out") | left_in(lab.folder / "output") <= {".lorakit-lock"}


def test_every_case_has_a_name_of_its_own_and_says_what_must_stand_in_its_message():
    cases = bad_input_cases.ALL
    names = {case.name for case in cases}
    assert len(names) == len(cases) >= 600
    assert names >= LONG
    assert all(case.words for case in cases)


@pytest.mark.parametrize("task", ["train", "evaluate"])
def test_a_run_that_fails_leaves_what_an_earlier_one_has_made(lab, task):
    shutil.copytree(lab.adapter_folder.parent, lab.folder / "out")
    before = {path: path.read_bytes() for path in (lab.folder / "out").rglob("*") if path.is_file()}
    bad = lab.write("bad.json", '[{"text": "a"')
    assert main(lab.command(task, f"--set=train_file={bad}", f"--set=validation_file={bad}")) == 2
    assert {path: path.read_bytes() for path in (lab.folder / "out").rglob("*") if path.is_file()} == before


class Dangerous:
    """Leaves a trace where it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.write_text, (self.trace, "has run")


def test_a_pickle_is_not_even_opened(lab, capsys):
    import pickle

    trace = lab.folder / "trace"
    folder = lab.model()
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Dangerous(trace)))
    assert main(lab.command("train", "--model_name_or_path", str(folder))) == 2
    assert not trace.exists()
    assert "pytorch_model.bin" in capsys.readouterr().err


OWN_CODE = """
from pathlib import Path
Path({trace!r}).write_text("has run")
from transformers import LlamaConfig, LlamaForCausalLM


class OwnConfig(LlamaConfig):
    model_type = "own"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""


def with_own_code(lab, model_type):
    folder = lab.model()
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(
        json.dumps(settings | {"model_type": model_type, "architectures": ["OwnModel"]})
    )
    (folder / "own.py").write_text(OWN_CODE.format(trace=str(lab.folder / "trace")))
    return folder


def test_code_of_a_model_does_not_run(lab, capsys):
    folder = with_own_code(lab, "own")
    assert main(lab.command("preview", "--model_name_or_path", str(folder))) == 2
    assert "trust_remote_code: true" in capsys.readouterr().err
    assert not (lab.folder / "trace").exists()


def test_code_of_a_model_that_is_known_without_it_is_left_out(lab, capsys):
    folder = with_own_code(lab, "llama")
    assert main(lab.command("preview", "--model_name_or_path", str(folder))) == 0
    assert "brings its own code, which is not run" in capsys.readouterr().err
    assert not (lab.folder / "trace").exists()


def test_code_of_a_model_runs_where_it_is_asked_for_by_name(lab, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(lab.folder / "modules"))
    folder = with_own_code(lab, "own")
    command = lab.command("preview", "--model_name_or_path", str(folder), "--set=trust_remote_code=true")
    assert main(command) == 0
    assert (lab.folder / "trace").read_text() == "has run"


@pytest.mark.skipif(os.name == "nt", reason="Windows has other pipes")
@pytest.mark.parametrize("what", ["train_file", "--config"])
def test_a_pipe_that_nobody_writes_to_does_not_hang(lab, what, capsys):
    pipe = lab.folder / "pipe"
    os.mkfifo(pipe)
    given = ["--config", str(pipe)] if what == "--config" else [f"--set={what}={pipe}"]
    assert main(lab.command("train", *given)) == 2
    assert "is a device, a pipe or a socket" in capsys.readouterr().err


def test_a_fault_of_one_row_does_not_end_a_run(lab, capsys):
    rows = lab.write("mixed.json", json.dumps([*ROWS, {"text": "a"}, 5, {"messages": 3}]))
    assert main(lab.command("preview", f"--set=train_file={rows}")) == 0
    assert "item 8" in capsys.readouterr().out
