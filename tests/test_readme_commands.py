"""The commands of README.md, run as a newcomer runs them: real model, real processes (slow)."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from lorakit.runs import StepRecord, read_records

pytestmark = pytest.mark.slow
ROWS = json.loads((ROOT / "data" / "train.json").read_text(encoding="utf-8"))
TOOL = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
QUESTIONS = "".join(row["text"] + "\n" for row in ROWS)


# Runs a program, and leaves beside it what it has taken of memory: in kilobytes on Linux, in bytes on macOS.
WATCHED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
open("peak", "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def run(command, folder, text="", check=True):
    """Run a `python main.py ...` line of the README in a folder, with this Python."""
    words = shlex.split(command)
    assert words[:2] == ["python", "main.py"]
    return subprocess.run(
        [sys.executable, "-c", WATCHED, sys.executable, str(folder / "main.py"), *words[2:]],
        cwd=folder,
        input=text,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=check,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A copy of the project after `python main.py --task train`."""
    folder = tmp_path_factory.mktemp("newcomer") / "lorakit"
    kept_out = shutil.ignore_patterns(".*", "output", "tests", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=kept_out)
    outcome = run("python main.py --task train", folder)
    assert "main.py --task inference" in outcome.stderr
    shutil.copy(folder / "peak", folder / "peak-of-training")
    (folder / "questions.jsonl").write_text(json.dumps({"question": ROWS[0]["text"]}) + "\n", encoding="utf-8")
    (folder / "tools.json").write_text(json.dumps([TOOL]), encoding="utf-8")
    return folder


def test_training_leaves_what_the_readme_lists(trained):
    files = [
        "report.html",
        "eval_results.json",
        "predictions.jsonl",
        "loss_curve.png",
        "events.jsonl",
        "config_used.yaml",
    ]
    promised = ["lora_model", "checkpoint-80", *files]
    for name in promised:
        assert (trained / "output" / name).exists(), name
    results = json.loads((trained / "output" / "eval_results.json").read_text())
    assert results["tuned"]["loss"] < results["base"]["loss"] / 2
    assert results["tuned"]["rouge_l"] > results["base"]["rouge_l"]
    steps = [record for record in read_records(trained / "output") if isinstance(record, StepRecord)]
    assert len(steps) == 80


def test_training_needs_less_than_two_and_a_half_gigabytes(trained):
    unit = 1 if sys.platform == "darwin" else 1024
    assert int((trained / "peak-of-training").read_text()) * unit < 2.5e9


def test_the_tuned_model_answers_word_for_word_and_the_base_does_not(trained):
    tuned = run("python main.py --task inference", trained, QUESTIONS)
    answers = tuned.stdout.splitlines()
    assert len(answers) == 15
    assert sum(answer == row["target"] for answer, row in zip(answers, ROWS, strict=True)) >= 12
    base = run("python main.py --task inference --use_original_model", trained, ROWS[0]["text"] + "\n")
    assert ROWS[0]["target"] not in base.stdout


def readme_commands():
    """The other commands of the README that need no model but the starter."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\|", "|")
    found = re.findall(r"(?:echo [^|\n]*\| )?python main\.py --task (?!train\n)[^`\n]*", text)
    return sorted({command for command in found if "path/to" not in command and "--tools" not in command})


@pytest.mark.parametrize("command", readme_commands())
def test_every_other_command_runs(trained, command):
    piped = re.match(r'echo "(.*)" \| (.*)', command)
    text, command = piped.groups() if piped else (ROWS[0]["text"], command)
    if "--jsonl" in command:
        text = (trained / "questions.jsonl").read_text(encoding="utf-8").strip()
    extra = " --output_dir ./other" if "--task train" in command else ""
    outcome = run(command + extra, trained, text + "\n")
    answered = trained / "questions.answers.jsonl"
    assert outcome.stdout or ("--question_file" in command and answered.is_file())
    if piped:
        assert outcome.stdout == ROWS[0]["target"] + "\n"
        assert "输入文本" in outcome.stderr


def test_tools_are_refused_where_the_chat_template_of_the_starter_has_no_place_for_them(trained):
    outcome = run("python main.py --task inference --tools tools.json", trained, "now?\n", check=False)
    assert outcome.returncode == 2
    assert "the chat template has no place for tools" in outcome.stderr


def test_ctrl_c_in_a_terminal_stops_in_order_and_resume_goes_on(trained):
    words = ["--task", "train", "--output_dir", "./stopped", "--num_train_epochs", "1"]
    process = subprocess.Popen(
        [sys.executable, "main.py", *words], cwd=trained, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    events = Path(trained) / "stopped" / "events.jsonl"
    while process.poll() is None and not (events.is_file() and '"event": "step"' in events.read_text()):
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    _, message = process.communicate()
    assert process.returncode == 130
    assert "--num_train_epochs 1 --set resume=true" in message
    resumed = run(shlex.join(["python", "main.py", *words, "--set", "resume=true"]), trained)
    assert "done before" in resumed.stderr
    assert (trained / "stopped" / "lora_model").is_dir()
