"""JSON that lorakit writes is JSON of the standard: Infinity and NaN, which Python would write, are null."""

import ast
import json
import math
import shutil

import pytest
from conftest import ROOT
from safetensors import safe_open
from trained import ROWS, assert_same_adapter, recorded

from lorakit.cli import main
from lorakit.outgoing import strict_json
from lorakit.runs import StepRecord
from lorakit.train.alarms import Alarms
from lorakit.train.checkpoints.state_files import read_state, write_state
from lorakit.train.trainer import LoraTrainer

# Texts that are hashed, compared, shown, or put into a template as it would be there: no files, no answers to programs.
NOT_WRITTEN = {
    "lorakit/agreement/kept.py": 1,
    "lorakit/cli/arguments.py": 1,
    "lorakit/data_processing/field_names.py": 1,
    "lorakit/data_processing/kept_rows.py": 2,
    "lorakit/data_processing/templates/template_identity.py": 1,
    "lorakit/data_processing/templates/text_encoding.py": 1,
    "lorakit/data_processing/calls/tool_calls.py": 1,
    "lorakit/export/gguf/tokenizer.py": 2,
    "lorakit/inference/text/tool_calls.py": 3,
    "lorakit/model_config/source.py": 1,
    "lorakit/model_config/checks/tokenizer.py": 1,
    "lorakit/outgoing.py": 1,
    "lorakit/train/setup/remedies.py": 1,
}


def refuse(word):
    raise AssertionError(f"{word} is no JSON")


def strictly(text):
    return json.loads(text, parse_constant=refuse)


def test_all_that_is_written_goes_through_one_function():
    found = {}
    for file in sorted((ROOT / "lorakit").rglob("*.py")):
        calls = [
            node.func for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)
        ]
        names = [call.attr for call in calls if isinstance(call, ast.Attribute)]
        count = sum(name in ("dump", "dumps", "save_to_json", "to_json_file") for name in names)
        if count:
            found[file.relative_to(ROOT).as_posix()] = count
    assert found == NOT_WRITTEN


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, math.nan, [math.inf], {"a": (1, [math.nan])}, {"b": {"c": math.inf}}]
)
def test_what_is_no_finite_number_becomes_null(value):
    assert "null" in strict_json(value)
    strictly(strict_json({"value": value, "text": "NaN", "number": 1.5}))


def test_states_keep_what_is_no_finite_number(tmp_path):
    state = {"best": math.inf, "worst": -math.inf, "bad": math.nan, "list": [1.5, math.inf], "number": 2}
    write_state(tmp_path / "state", state)
    with safe_open(tmp_path / "state", framework="pt") as opened:
        strictly(opened.metadata()["tree"])
    assert repr(read_state(tmp_path / "state")) == repr(state)


def test_a_run_whose_gradients_overflow_in_float16_leaves_json_and_can_be_resumed(
    model_folder, write_rows, tmp_path, monkeypatch
):
    """The scale of float16 is found by steps whose gradient is not finite; a CPU has none, so one is made to be."""
    own, watch = LoraTrainer._maybe_log_save_evaluate, Alarms.step

    def overflowing(self, tr_loss, grad_norm, *arguments, **named):
        own(self, tr_loss, math.inf if self.state.global_step in (1, 4) else grad_norm, *arguments, **named)

    monkeypatch.setattr(LoraTrainer, "_maybe_log_save_evaluate", overflowing)
    monkeypatch.setattr(Alarms, "step", lambda self, record, origins, is_scaled: watch(self, record, origins, True))
    rows = write_rows(ROWS, "rows.json")
    words = ["--task", "train", "--config", str(tmp_path / "empty.yaml"), "--output_dir", str(tmp_path / "run")]
    words += ["--model_name_or_path", str(model_folder("llama")), "--num_train_epochs", "2"]
    settings = {
        "per_device_train_batch_size": 2,
        "train_file": rows,
        "validation_file": rows,
        "torch_dtype": "float32",
        "max_new_tokens": 2,
    }
    words += [f"--set={name}={value}" for name, value in settings.items()]
    (tmp_path / "empty.yaml").write_text("")
    assert main(words) == 0
    check_all(tmp_path / "run")
    norms = [record.grad_norm for record in recorded(tmp_path / "run", StepRecord)]
    assert [math.isnan(norm) for norm in norms] == [True, False, False, True, False, False]
    shutil.copytree(tmp_path / "run", tmp_path / "whole")
    for file in (tmp_path / "run" / "checkpoint-6").iterdir():
        file.unlink()
    assert main([*words, "--set=resume=true"]) == 0
    check_all(tmp_path / "run")
    assert_same_adapter(tmp_path / "whole", tmp_path / "run", rtol=0, atol=0)


def check_all(folder):
    files = [path for path in folder.rglob("*.json*") if path.is_file()]
    assert {"events.jsonl", "eval_results.json", "predictions.jsonl", "trainer_state.json"} <= {
        path.name for path in files
    }
    for file in files:
        text = file.read_text(encoding="utf-8")
        for part in text.splitlines() if file.suffix == ".jsonl" else [text]:
            strictly(part)
