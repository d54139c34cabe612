import json
import os
import signal
import subprocess
import sys

import pytest
import yaml
from conftest import ROOT

from lorakit.cli import main
from lorakit.config import Config, load_config
from lorakit.interrupts import leave_at_once, leave_in_order


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def test_init_writes_the_sample_as_it_is(here, capsys):
    assert main(["init"]) == 0
    found = contents(here)
    assert sorted(found) == ["config.yaml", "data/train.json", "data/validation.json"]
    assert all(text == (ROOT / name).read_text() for name, text in found.items())
    assert "--task preview" in capsys.readouterr().err
    assert load_config("config.yaml", {}, []) == load_config(str(ROOT / "config.yaml"), {}, [])


@pytest.mark.parametrize("name", ["config.yaml", "data/train.json", "data/validation.json"])
def test_init_overwrites_nothing_and_writes_nothing_beside_it(here, name, capsys):
    (here / name).parent.mkdir(exist_ok=True)
    (here / name).write_text("mine")
    assert main(["init"]) == 2
    assert contents(here) == {name: "mine"}
    assert f"{name} is here already" in capsys.readouterr().err


def test_init_takes_flags_and_keeps_the_comments(here):
    assert main(["init", "--learning_rate", "2e-4", "--lora_r", "4", "--set", "seed=7"]) == 0
    text = (here / "config.yaml").read_text()
    before = (ROOT / "config.yaml").read_text()
    assert [line for line in before.splitlines() if line.startswith("#")] == [
        line for line in text.splitlines() if line.startswith("#")
    ]
    changed = yaml.safe_load(text)
    assert (changed["learning_rate"], changed["lora_r"], changed["seed"]) in {("2e-4", 4, 7), (2e-4, 4, 7)}
    assert load_config("config.yaml", {}, []).learning_rate == 2e-4


def test_with_rows_of_ones_own_a_share_of_them_is_held_back(here):
    (here / "mine.json").write_text(json.dumps([{"text": "a", "target": "b"}]))
    assert main(["init", "--set", "train_file=mine.json"]) == 0
    assert sorted(contents(here)) == ["config.yaml", "mine.json"]
    config = load_config("config.yaml", {}, [])
    assert (config.train_file, config.validation_file, config.validation_share) == ("mine.json", None, 0.1)
    others = Config()
    for name in ("lora_r", "lora_alpha", "learning_rate", "per_device_train_batch_size"):
        assert getattr(config, name) == getattr(others, name)


def test_a_wrong_flag_of_init_writes_nothing(here):
    assert main(["init", "--lora_r", "many"]) == 2
    assert contents(here) == {}


SWALLOWING = """
import os, runpy, signal, sys, types

def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
        os.listdir()
    except BaseException:  # as in the import of a package, where the interrupt would be lost
        pass
    return 0

sys.modules["lorakit.cli"] = types.ModuleType("lorakit.cli")
sys.modules["lorakit.cli"].main = main
{before}
sys.argv = ["main.py"]
runpy.run_path({program!r}, run_name="__main__")
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has other signals")
@pytest.mark.parametrize(
    ("before", "code"),
    [("", 130), ("signal.signal(signal.SIGINT, signal.SIG_IGN)", 0)],
    ids=["pressed", "ignored, as behind &"],
)
@pytest.mark.parametrize("program", ["main.py", "lorakit/__main__.py"])
def test_an_interrupt_before_a_task_has_begun_ends_the_program_at_once(program, before, code):
    script = SWALLOWING.format(before=before, program=str(ROOT / program))
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == code
    assert "Traceback" not in ended.stderr


def test_a_task_is_interrupted_as_python_does_it():
    before = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        leave_at_once()
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        leave_in_order()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("program", [["main.py"], ["-m", "lorakit"]], ids=["main.py", "python -m lorakit"])
def test_next_to_nothing_is_imported_before_an_interrupt_is_lorakits(program):
    command = [sys.executable, "-S", "-X", "importtime", *program, "--version"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    imported = [
        line.rpartition("|")[2].strip() for line in ended.stderr.splitlines() if line.startswith("import time:")
    ]
    before = imported[: imported.index("lorakit.interrupts")]
    assert not {"typing", "signal", "argparse"} & set(before)
    assert "argparse" in imported
