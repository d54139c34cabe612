"""Every task, ended or failed at the calls that change files: nothing is lost, and what goes on is the same run.

The fast tier strikes a few points, drawn by a seed; the slow tier all of them.
"""

import errno
import json
import random
import shutil
import sys

import pytest
from conftest import save_family
from survival.machine import CrashMachine
from survival.scenarios import RUN, SCENARIOS, Stage
from trained import ROWS

needs_shim = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("cc") is None, reason="the shim is C for Linux"
)
pytestmark = needs_shim
ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "EROFS": errno.EROFS}
SEED = 20


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Return a function from a scenario's name to its stage."""
    root = tmp_path_factory.mktemp("survival")
    here, model = root / "here", save_family("llama", root / "model")
    here.mkdir()
    rows = root / "rows.json"
    rows.write_text(json.dumps(ROWS[:4], ensure_ascii=False), encoding="utf-8")
    (root / "empty.yaml").write_text("")
    settings = {
        "train_file": rows,
        "validation_file": rows,
        "torch_dtype": "float32",
        "target_modules": "[q_proj]",
        "lora_dropout": 0.1,
        "max_new_tokens": 2,
        "max_generated_rows": 1,
        "proof_questions": 2,
    }

    def argv(task):
        words = ["--config", root / "empty.yaml", "--model_name_or_path", model, "--output_dir", here / RUN]
        words += ["--num_train_epochs", 2, *(f"--set={name}={value}" for name, value in settings.items())]
        return [*map(str, words), *task]

    machine = CrashMachine(root, here, argv(("--task", "evaluate", "--use_original_model")))
    stages = {}

    def stage(name):
        if name not in stages:
            stages[name] = Stage(machine, SCENARIOS[name], argv, root / f"begin-{name.replace(' ', '-')}")
        return stages[name]

    yield stage
    machine.close()


@pytest.mark.parametrize(
    ("name", "mode", "error"),
    [
        ("second run", "kill", 0),
        ("resumed", "power", 0),
        ("merged again", "kill", 0),
        ("first run", "fail_on", errno.ENOSPC),
    ],
)
def test_struck_at_a_few_points_nothing_is_lost(lab, name, mode, error):
    stage = lab(name)
    drawn = random.Random(f"{SEED} {name} {mode}")
    for point in drawn.sample(range(stage.calls), 2):
        stage.strike(point, mode, error)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["kill", "power", "torn"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_ended_at_any_call_nothing_is_lost(lab, name, mode):
    stage = lab(name)
    for point in range(stage.calls):
        stage.strike(point, mode)
    print(f"{name}: {mode} at {stage.calls} points")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["fail_once", "fail_on", "short"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_where_any_call_fails_the_task_ends_with_a_message_or_goes_on_as_if_it_had_not(lab, name, mode):
    stage = lab(name)
    for point in range(stage.calls):
        stage.strike(point, mode, 0 if mode == "short" else list(ERRORS.values())[point % len(ERRORS)])
    print(f"{name}: {mode} at {stage.calls} points")
