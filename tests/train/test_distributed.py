"""Two processes on one machine do what one process does: the same adapter, the same evaluation (slow)."""

import functools
import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from trained import assert_same_adapter, recorded

from lorakit.runs import EvaluationRecord, StepRecord

pytestmark = pytest.mark.slow
ROWS = [{"text": f"第{number}个问题？", "target": "答案" * (number % 4 + 1)} for number in range(8)]


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
SETTINGS = {
    "torch_dtype": "float32",
    "target_modules": "all-linear",
    "lora_dropout": 0,
    "max_new_tokens": 4,
    "max_tokens_per_microbatch": 60,  # so that the ranks make different numbers of passes
}


def run(task, model, rows, output, *extra, launcher=(), trainer_args=""):
    settings = SETTINGS | {
        "train_file": rows,
        "validation_file": rows,
        "trainer_args": "{train_sampling_strategy: sequential" + trainer_args + "}",
    }
    outcome = subprocess.run(
        [
            *[sys.executable, *launcher, "main.py", "--task", task, "--verbose"],
            *["--model_name_or_path", str(model), "--output_dir", str(output), "--num_train_epochs", "2"],
            *[f"--set={name}={value}" for name, value in settings.items()],
            *extra,
        ],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=240,  # ranks that have lost each other wait for ever
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("data") / "rows.json"
    file.write_text(json.dumps(ROWS, ensure_ascii=False), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def alone(model_folder, rows, tmp_path_factory):
    """Return a function from a family to the folder of its run in one process, four rows a step."""
    root = tmp_path_factory.mktemp("alone")

    @functools.cache
    def folder_of(family):
        run("train", model_folder(family), rows, root / family, "--per_device_train_batch_size=4")
        return root / family

    return folder_of


@pytest.mark.parametrize(
    ("family", "trainer_args"),
    [
        ("llama", ""),
        ("qwen3", ""),
        ("llama", ", fsdp: true"),
        ("qwen3", ", fsdp: true"),
        ("llama", ", fsdp: true, fsdp_config: {activation_checkpointing: true}"),
        ("llama", ", fsdp: true, load_best_model_at_end: true"),
    ],
)
def test_two_processes_give_the_adapter_of_one(model_folder, rows, alone, tmp_path, family, trainer_args):
    outcome = run(
        *("train", model_folder(family), rows, tmp_path / "two", "--per_device_train_batch_size=2"),
        launcher=TORCHRUN,
        trainer_args=trainer_args,
    )
    assert outcome.stderr.count("trainable parameters") == 1  # one of them speaks
    assert ("sharded" in outcome.stderr) == ("fsdp" in trainer_args)
    folders = (alone(family), tmp_path / "two")
    steps = [recorded(folder, StepRecord) for folder in folders]
    assert [record.rows for record in steps[1]] == [record.rows for record in steps[0]] == [4] * 4
    assert [record.target_tokens for record in steps[1]] == [record.target_tokens for record in steps[0]]
    assert [record.loss for record in steps[1]] == pytest.approx([record.loss for record in steps[0]], rel=1e-5)
    validations = [recorded(folder, EvaluationRecord) for folder in folders]
    assert [record.target_tokens for record in validations[1]] == [record.target_tokens for record in validations[0]]
    assert [record.loss for record in validations[1]] == pytest.approx(
        [record.loss for record in validations[0]], rel=1e-5
    )
    assert_same_adapter(*folders, rtol=1e-5, atol=1e-7)
    results = [json.loads((folder / "eval_results.json").read_text()) for folder in folders]
    assert results[1]["tuned"]["loss"] == pytest.approx(results[0]["tuned"]["loss"], rel=1e-5)
    kept = {path.name for path in (tmp_path / "two" / "checkpoint-4").rglob("*")}
    assert {"adapter_model.safetensors", "optimizer.safetensors", "trainer_state.json"} <= kept
    assert all(name.endswith((".safetensors", ".json", ".md")) for name in kept)  # no pickle, no distributed format


@pytest.mark.parametrize("trainer_args", ["", ", fsdp: true"])
def test_two_processes_train_the_same_answers_of_the_base_as_one(model_folder, rows, tmp_path, trainer_args):
    folders = tmp_path / "one", tmp_path / "two"
    for folder, batch, launcher, more in ((folders[0], 4, (), ""), (folders[1], 2, TORCHRUN, trainer_args)):
        words = f"--per_device_train_batch_size={batch}", "--set=replay=2"
        run("train", model_folder("llama"), rows, folder, *words, launcher=launcher, trainer_args=more)
    one, two = ((folder / "replay.jsonl").read_text().splitlines()[1:] for folder in folders)
    assert len(one) == 2
    assert one == two
    assert_same_adapter(*folders, rtol=1e-5, atol=1e-7)


def test_a_sharded_run_that_is_resumed_equals_the_unbroken_one(model_folder, rows, alone, tmp_path):
    arguments = ("train", model_folder("llama"), rows, tmp_path / "two", "--per_device_train_batch_size=2")
    options = {"launcher": TORCHRUN, "trainer_args": ", fsdp: true"}
    run(*arguments, **options)
    shutil.rmtree(tmp_path / "two" / "checkpoint-4")
    shutil.rmtree(tmp_path / "two" / "lora_model")
    run(*arguments, "--set=resume=true", **options)
    assert_same_adapter(alone("llama"), tmp_path / "two", rtol=1e-5, atol=1e-7)


def test_two_processes_share_the_rows_of_an_evaluation(model_folder, rows, alone, tmp_path):
    found = []
    for name, launcher in (("one", ()), ("two", TORCHRUN)):
        adapter = f"--lora_model_path={alone('llama') / 'lora_model'}"
        outcome = run("evaluate", model_folder("llama"), rows, tmp_path / name, adapter, launcher=launcher)
        assert outcome.stdout.count("exact match") == 1
        lines = sorted((tmp_path / name / "predictions.jsonl").read_text(encoding="utf-8").splitlines())
        found.append((json.loads((tmp_path / name / "eval_results.json").read_text()), lines))
    (one, answers_of_one), (two, answers_of_two) = found
    assert answers_of_two == answers_of_one
    assert len(answers_of_one) == len(ROWS)
    for model in ("base", "tuned"):
        assert two[model] == pytest.approx(one[model], rel=1e-5)
