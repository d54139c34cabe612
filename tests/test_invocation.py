import os
import shlex
import sys
from pathlib import Path

import pytest

from lorakit import invocation
from lorakit.invocation import installing, program, this_command


@pytest.fixture
def started(monkeypatch, tmp_path):
    """Return a function that says how the program was started: its words, its interpreter, and what PATH has."""

    def start(*words, python="/opt/python/bin/python", on_path=(), environment=None):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", list(words))
        monkeypatch.setattr(sys, "executable", str(python))
        monkeypatch.setattr("shutil.which", {Path(path).name: str(path) for path in on_path}.get)
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        return tmp_path

    return start


@pytest.mark.parametrize(
    ("script", "on_path", "words"),
    [
        ("main.py", ["/opt/python/bin/python"], ["python", "main.py"]),
        ("main.py", ["/usr/bin/python"], ["/opt/python/bin/python", "main.py"]),
        ("main.py", [], ["/opt/python/bin/python", "main.py"]),
        ("/a b/main.py", [], ["/opt/python/bin/python", "/a b/main.py"]),
        ("/opt/bin/lorakit", ["/opt/bin/lorakit"], ["lorakit"]),
        ("/opt/bin/lorakit", ["/usr/bin/lorakit"], ["/opt/bin/lorakit"]),
        ("/x/lorakit/__main__.py", [], ["/opt/python/bin/python", "-m", "lorakit"]),
        ("/x/pytest", [], ["/opt/python/bin/python", "-m", "lorakit"]),
    ],
)
def test_a_program_is_named_as_it_was_started(started, script, on_path, words):
    started(script, on_path=on_path)
    assert program() == words


def test_an_interpreter_below_this_folder_is_named_from_here(started, tmp_path):
    started("main.py", python=tmp_path / ".venv" / "bin" / "python")
    assert program() == [os.path.join(".venv", "bin", "python"), "main.py"]


def test_an_interpreter_that_a_shell_finds_by_another_name_has_that_name(started):
    started("main.py", python="/usr/bin/python3", on_path=["/usr/bin/python3"])
    assert program() == ["python3", "main.py"]


def test_several_processes_are_started_by_their_launcher(started):
    started("main.py", environment={"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2"})
    assert program()[1:] == ["-m", "torch.distributed.run", "--nproc_per_node=2", "main.py"]


@pytest.mark.parametrize("task", ["inference", "merge", "export", "push", "preview", "advise"])
def test_a_task_for_one_process_is_not_started_by_the_launcher_of_this_one(started, task):
    started("main.py", "--task", "train", environment={"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2"})
    assert program(task) == shlex.split(this_command(task))[:-2]
    assert "torch.distributed.run" not in this_command(task)
    assert "torch.distributed.run" in this_command("evaluate")


@pytest.mark.parametrize(
    ("given", "for_inference"),
    [
        (["--task", "train", "--output_dir", "a b"], ["--task", "inference", "--output_dir", "a b"]),
        (["train", "--lora_r", "4"], ["--task", "inference", "--lora_r", "4"]),
        (["--lora_r", "4", "--task=train"], ["--lora_r", "4", "--task=inference"]),
        ([], ["--task", "inference"]),
    ],
)
def test_the_next_command_keeps_what_was_given(started, given, for_inference):
    started("/opt/bin/lorakit", *given, on_path=["/opt/bin/lorakit"])
    assert shlex.split(this_command("inference")) == ["lorakit", *for_inference]


def test_what_is_added_is_not_doubled(started):
    started("/opt/bin/lorakit", "train", "--set", "resume=true", on_path=["/opt/bin/lorakit"])
    resumed = this_command("train", ["--set", "resume=true"])
    assert resumed == "lorakit --task train --set resume=true"


def test_a_package_that_is_missing_is_installed_where_lorakit_is(started, monkeypatch, tmp_path):
    started("main.py", python="/usr/bin/python3", on_path=["/usr/bin/python3"])
    checkout = tmp_path / "lorakit" / "invocation.py"
    monkeypatch.setattr(invocation, "__file__", str(checkout))
    assert installing("xlsx") == "python3 -m pip install 'lorakit[xlsx]'"
    (tmp_path / "pyproject.toml").touch()
    assert installing("xlsx") == "python3 -m pip install -e '.[xlsx]'"
